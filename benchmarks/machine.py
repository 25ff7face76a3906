"""The machine that figures were taken on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def describe() -> dict[str, str]:
    """When, on what processor, with how many cores and which Python; for a results file."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or not x86: the name above will do
    cores = len(os.sched_getaffinity(0))
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{model}, {cores} cores, Python {platform.python_version()}",
    }
