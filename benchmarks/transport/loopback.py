"""Loopback with the congestion control that most robots have, beside the machine's own.

Linux comes with cubic, servers in data centres often have bbr, and what TCP does between two
processes of one machine differs with it. A network namespace has a setting of its own, so nothing
on the machine changes, but for the list of what namespaces may use, which is put back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.transport.hosts import Host, Site

USUAL = "cubic"
_SETTINGS = Path("/proc/sys/net/ipv4")
_ALLOWED = _SETTINGS / "tcp_allowed_congestion_control"
_AVAILABLE = _SETTINGS / "tcp_available_congestion_control"


def own() -> str:
    """The machine's own congestion control."""
    return (_SETTINGS / "tcp_congestion_control").read_text().strip()


def reason_against() -> str:
    """Why there can be no namespace with `USUAL` here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "`ip` is needed: install iproute2"
    if USUAL not in _AVAILABLE.read_text().split():
        return f"this kernel has no {USUAL}"
    return ""


@contextlib.contextmanager
def allowed(congestion: str) -> Iterator[None]:
    """Let namespaces use this congestion control meanwhile. Needs root."""
    before = _ALLOWED.read_text()
    if congestion not in before.split():
        _ALLOWED.write_text(f"{before.strip()} {congestion}")
    try:
        yield
    finally:
        if congestion not in before.split():
            _ALLOWED.write_text(before)


@contextlib.contextmanager
def usual_loopback() -> Iterator[Site]:
    """A namespace with a loopback device and `USUAL`; it is removed at the end.

    Raises:
        subprocess.CalledProcessError: `ip` fails; its complaint is in `stderr`.
    """
    name = f"loopback-{os.getpid()}"
    inside = ["ip", "netns", "exec", name]
    with allowed(USUAL):
        _run(["ip", "netns", "add", name])
        try:
            _run([*inside, "ip", "link", "set", "lo", "up"])
            setting = _SETTINGS / "tcp_congestion_control"
            _run([*inside, "sh", "-c", 'echo "$0" > "$1"', USUAL, str(setting)])
            host = Host(inside=inside)
            yield Site(host, host, host)
        finally:
            _run(["ip", "netns", "delete", name])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
