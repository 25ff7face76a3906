"""The software that figures were taken with."""

from __future__ import annotations

import platform
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import zmq

from benchmarks.openpi_venv import FOLDER

_OURS = {"pyzmq", "numpy", "msgpack"}
_OPENPIS = {"openpi-client", "openpi-server", "websockets", "numpy", "msgpack"}
_CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def versions() -> dict[str, object]:
    """Kernel, its congestion control, libzmq, and packages in our environment and in openpi's."""
    theirs = [str(path) for path in FOLDER.glob("lib/python*/site-packages")]
    return {
        "kernel": platform.release(),
        "congestion_control": _CONGESTION_CONTROL.read_text().strip(),
        "libzmq": zmq.zmq_version(),
        "packages": _installed([sysconfig.get_path("platlib")], _OURS),
        "openpi_packages": _installed(theirs, _OPENPIS),
    }


def _installed(path: list[str], wanted: set[str]) -> dict[str, str]:
    found = {each.name: each.version for each in distributions(path=path)}
    return {name: found[name] for name in sorted(wanted & found.keys())}
