"""Brokers and a gateway, started for pictures."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.local.processes import Process, Processes, free_ports


@dataclass(frozen=True)
class Site:
    """What serves the robots that the page shows."""

    name: str
    brokers: list[Process]
    gateway: Process
    frontends: list[str]
    backends: list[str]
    openpi_port: int
    url: str


def start(processes: Processes, name: str, count: int = 1, *options: str) -> Site:
    """Start `count` brokers with these options, and a gateway that asks them all."""
    http, openpi, *ports = free_ports(2 + 2 * count)
    frontends = [f"tcp://127.0.0.1:{port}" for port in ports[:count]]
    backends = [f"tcp://127.0.0.1:{port}" for port in ports[count:]]
    brokers = [
        processes.start(
            f"{name} broker {number}", "broker", f"frontend={front}", f"backend={back}", *options
        )
        for number, (front, back) in enumerate(zip(frontends, backends, strict=True))
    ]
    gateway = processes.start(
        f"{name} gateway",
        "broker.gateway",
        f"broker=[{','.join(frontends)}]",
        f"http.listen=127.0.0.1:{http}",
        f"openpi.listen=127.0.0.1:{openpi}",
        "openpi.policy=aloha",
        "deadline_s=5",
    )
    gateway.wait_ready()
    url = f"http://127.0.0.1:{http}/"
    return Site(name, brokers, gateway, frontends, backends, openpi, url)
