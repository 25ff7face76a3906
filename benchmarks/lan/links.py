"""Links of a LAN as they are measured, and what makes a link behave so.

A pair of veth devices is as fast as the machine. netem slows it down in the kernel; where the
kernel has none, `tunlink.c` stands between two TUN devices instead.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("tunlink.c")
_MTU = 1500
_AROUND = 24  # bytes on the wire that netem does not count: preamble, checksum and gap
_LONGEST_S = 3600  # an emulator ends by itself after so long


class LinkError(RuntimeError):
    """This machine cannot have such links; the message says what is missing."""


@dataclass(frozen=True)
class Link:
    """Both directions alike. `rate_mbit` 0: as fast as the machine, nothing delayed or lost.

    `queue_bytes` may be on their way in one direction, more are lost: an observation fits.
    `slow_start_after_idle` is Linux's setting of that name on all hosts.
    """

    name: str
    rate_mbit: int = 0
    delay_ms: float = 0.0  # each way
    loss_percent: float = 0.0
    queue_bytes: int = 1_000_000
    slow_start_after_idle: bool = True

    @property
    def is_shaped(self) -> bool:
        """Has it a rate of its own?"""
        return self.rate_mbit > 0


_GIGABIT = Link("1 Gbit/s, 0.2 ms", 1000, 0.2)
LINKS = {
    "unshaped": Link("unshaped veth"),
    "1g": _GIGABIT,
    "100m": Link("100 Mbit/s, 2 ms, 0.1 % loss", 100, 2.0, 0.1),
    "1g-warm": Link("1 Gbit/s, 0.2 ms, no slow start after idle", 1000, 0.2, 0.0, 1_000_000, False),
}


def netem(link: Link) -> list[str]:
    """`tc`'s words for it, at the end of each direction."""
    return [
        *("netem", "limit", str(max(1, link.queue_bytes // _MTU))),
        *("rate", f"{link.rate_mbit}mbit", str(_AROUND)),
        *("delay", f"{link.delay_ms * 1e3:.0f}us"),
        *(("loss", f"{link.loss_percent:g}%") if link.loss_percent else ()),
    ]


def emulator(program: Path, link: Link, ends: Sequence[str], seed: int) -> list[str]:
    """The command of `tunlink` for it, between the devices `ends`."""
    numbers = (link.rate_mbit, round(link.delay_ms * 1e3), link.loss_percent, link.queue_bytes)
    return [
        str(program),
        *ends,
        *(f"{number:.10g}" for number in numbers),
        str(seed),
        f"{_LONGEST_S}",
    ]


def build_emulator(folder: Path) -> Path:
    """Compile it into `folder`, unless it is there already and newer than its source.

    Raises:
        LinkError: there is no compiler, or it does not take it.
    """
    program = folder / "tunlink"
    if program.exists() and program.stat().st_mtime > _SOURCE.stat().st_mtime:
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LinkError(
            "this kernel has no netem, and the link emulator that stands in for it has to be "
            "compiled: install a C compiler (gcc), or measure --links unshaped"
        )
    folder.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", str(_SOURCE), "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    if compiled.returncode:
        raise LinkError(f"{_SOURCE.name} cannot be compiled:\n{compiled.stderr.strip()}")
    return program
