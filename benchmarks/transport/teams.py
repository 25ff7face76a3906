"""A peer's servers and robots, all running and connected, that take turns together."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.neighbours import Neighbours
from benchmarks.openpi_venv import ROOT, openpi_python
from benchmarks.transport.hosts import HERE, Host, Site
from benchmarks.transport.observations import ACTION_DIM, HORIZON
from benchmarks.transport.pacing import UNTIMED, Taken, Turn
from scripts.local.processes import Process, Processes, free_ports

CONNECT_S = 90.0
_ANSWER_S = 120.0  # beyond the turn's own time
# Requests that our worker has in hand, for many robots: with one, the usual, it waits for the next
# observation after each answer, and openpi's server takes all that its robots send.
_MOST_SLOTS = 8

# With these, glibc keeps large blocks instead of giving each back to the kernel.
_TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


@dataclass(frozen=True)
class Peer:
    """How one of them is started. `module` is in `benchmarks.peers`.

    `broker_apart`: on a host of its own, where the site has one; else on the worker's. `servers`
    are the functions of `module` that serve; empty for ours, whose own commands do.
    """

    module: str
    in_openpi_venv: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    broker_apart: bool = False
    servers: Sequence[str] = ("serve",)

    @property
    def python(self) -> Path:
        """The interpreter for its robots and its server."""
        return openpi_python() if self.in_openpi_venv else Path(sys.executable)


PEERS = {
    "ours": Peer("ours", servers=()),
    "ours, memory": Peer("ours_in_memory", servers=()),
    "ours, JPEG": Peer("ours_jpeg", servers=()),
    "sketch": Peer("sketch", servers=("broker", "worker")),
    "openpi": Peer("openpi", in_openpi_venv=True),
    "openpi tuned": Peer("openpi", in_openpi_venv=True, environment=_TUNED),
    "req/rep": Peer("req_rep"),
    "raw tcp": Peer("raw_tcp"),
}
# What is worth its while only where there are several hosts.
FAR = {
    "ours, JPEG 75": Peer("ours_small_jpeg", servers=()),
    "ours, broker apart": Peer("ours", broker_apart=True, servers=()),
    "ours, broker apart, JPEG": Peer("ours_jpeg", broker_apart=True, servers=()),
    "ours, broker apart, JPEG 75": Peer("ours_small_jpeg", broker_apart=True, servers=()),
}


@dataclass(frozen=True)
class Result:
    """One turn of a whole team."""

    latencies_us: list[float]
    requests_per_s: float
    cpu_us: dict[str, float]  # a request, by process; `robot` is the mean of the robots
    resident_mb: dict[str, float]  # of the servers
    others_cores: float  # that processes not of this team kept busy
    stages_ms: list[dict[str, float]] = field(default_factory=list)  # of each request, if asked for


class Team:
    """Runs as long as `processes` do."""

    def __init__(
        self, name: str, robots: int, size: str, processes: Processes, site: Site = HERE
    ) -> None:
        """Start the servers and the robots; `wait_connected` before anything else.

        Every process sees one size of observation only: one large block that was freed makes
        glibc keep smaller ones too, and openpi looks twice as fast as it is.
        """
        peer = {**PEERS, **FAR}[name]
        self.name = name
        self._processes, self._site = processes, site
        self._python = str(peer.python)
        self._environment = {"PYTHONPATH": str(ROOT), **peer.environment}
        port, backend = free_ports(2)
        front = site.broker if peer.broker_apart else site.worker
        if not peer.servers:
            slots = max(1, min(robots, _MOST_SLOTS))
            self._servers = self._start_ours(front, port, backend, slots)
        else:
            ports = (str(port), str(backend)) if len(peer.servers) > 1 else (str(port),)
            self._servers = {
                "server" if role == "serve" else role: self._start(
                    *(front, role, "benchmarks.peers.server"),
                    *(peer.module, role, front.address, *ports),
                )
                for role in peer.servers
            }
        self._asking = (peer.module, front.address, str(port), size)
        self._robots = [
            self._start(site.robot, f"robot {number}", "benchmarks.peers.robot", *self._asking)
            for number in range(robots)
        ]

    def wait_connected(self) -> None:
        """Return once every robot has had a right answer.

        Raises:
            ProcessError: one has not.
        """
        for robot in self._robots:
            robot.answer(CONNECT_S)
        for server in self._servers.values():
            server.check()

    def witness(self, rate_hz: float, timeout_s: float) -> Process:
        """One more robot, of `benchmarks.peers.witness`, that takes no part in turns."""
        arguments = (*self._asking, str(rate_hz), str(timeout_s))
        return self._start(self._site.robot, "witness", "benchmarks.peers.witness", *arguments)

    def logged(self) -> dict[str, list[str]]:
        """What each server has said so far."""
        return {
            name: server.log.read_text(errors="replace").splitlines()
            for name, server in self._servers.items()
        }

    def place(self, robots: Collection[int], rest: Collection[int]) -> None:
        """Run the robots on some cores and the servers on others."""
        for robot in self._robots:
            robot.place(robots)
        for server in self._servers.values():
            server.place(rest)

    def take(self, turn: Turn) -> Result:
        """Have all robots take this turn, each a little later in its period than the one before.

        Raises:
            ProcessError: one of the processes has ended or is stuck.
        """
        count = len(self._robots)
        neighbours, before = Neighbours(), self._cpu_s()
        for number, robot in enumerate(self._robots):
            robot.tell(asdict(replace(turn, offset=number / count)))
        taken = [Taken(**robot.answer(turn.seconds + _ANSWER_S)) for robot in self._robots]
        used = {name: seconds - before[name] for name, seconds in self._cpu_s().items()}
        others = neighbours.cores(sum(used.values()))
        latencies = [latency for each in taken for latency in each.latencies_us]
        served = len(latencies) + UNTIMED * count
        return Result(
            latencies,
            sum(len(each.latencies_us) / each.elapsed_s for each in taken),
            {
                "robot": sum(each.cpu_s for each in taken) * 1e6 / len(latencies),
                **{name: used[name] * 1e6 / served for name in self._servers},
            },
            {name: server.resident_mb() for name, server in self._servers.items()},
            others,
            [stages for each in taken for stages in each.stages_ms],
        )

    def _cpu_s(self) -> dict[str, float]:
        others = [*self._robots, *self._site.emulators]
        everyone = {**self._servers, **{process.name: process for process in others}}
        return {name: process.cpu_seconds() for name, process in everyone.items()}

    def _start_ours(self, front: Host, port: int, backend: int, slots: int) -> dict[str, Process]:
        inward = f"tcp://{front.address}:{backend}"
        ends = {
            "broker": [
                *(f"frontend=tcp://{front.address}:{port}", f"backend={inward}"),
                f"insecure={str(front.is_open).lower()}",
            ],
            "worker": [
                *("env=aloha_sim", "model=tiny", "policy=noop"),
                f"policy.action_horizon={HORIZON}",
                f"policy.action_dim={ACTION_DIM}",
                f"runtime.slots={slots}",
                f"broker={inward}",
            ],
        }
        hosts = {"broker": front, "worker": self._site.worker}
        return {
            name: self._start(hosts[name], name, name, *arguments)
            for name, arguments in ends.items()
        }

    def _start(self, host: Host, role: str, module: str, *arguments: str) -> Process:
        command = [*host.inside, self._python, "-m", module, *arguments]
        return self._processes.start_command(
            f"{self.name} {role}", command, environment=self._environment, talks=True
        )
