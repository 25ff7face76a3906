"""`python -m tests.documents.places`: writes the README's first table, a line for each place.

A robot stands on its worker's host, on a fast network, or behind a slow link. The figures are of
`benchmarks/results/transport.json` and `lan-10hz.json`. `--check` only compares, and exits 1 if the
README is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lan.links import LINKS
from benchmarks.transport.observations import label
from tests.documents import written

ROOT = Path(__file__).parents[2]
DOCUMENT, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a robot stands, and which cells say how long it waits there."""

    name: str
    way: str  # for people
    peer: str
    size: str
    rate_hz: float
    link: str = ""  # of a LAN; empty: on the worker's host


PLACES = (
    Place("on the worker's host", "shared memory, the default", "ours, memory", "libero", 50.0),
    Place("on the worker's host", "shared memory, the default", "ours, memory", "camera", 50.0),
    Place("on the worker's host", "bytes", "ours", "libero", 50.0),
    *(
        Place(name, way, peer, "aloha", 10.0, LINKS[link].name)
        for name, link in (("1 Gbit/s", "1g"), ("100 Mbit/s, or Wi-Fi", "100m"))
        for way, peer in (
            ("JPEG, quality 95", "ours, JPEG"),
            ("JPEG, quality 75", "ours, JPEG 75"),
            ("bytes", "ours"),
        )
    ),
)


def render(document: str, transport: Path, lan: Path) -> str:
    """The document with its table replaced.

    Raises:
        ValueError: the document has no place for it, or a result lacks a cell.
    """
    here, far = json.loads(transport.read_text()), json.loads(lan.read_text())
    heads = ("where the robot stands", "observation", "sent as", "ours", "openpi", "ratio")
    lines = [
        *written.table(heads, [_row(place, far if place.link else here) for place in PLACES]),
        "",
        f"({here['measured'][:10]}, {here['machine']}; congestion control cubic)",
    ]
    return written.replace_part(document, "places", lines)


def _row(place: Place, result: Result) -> Sequence[str]:
    ours, openpi = (_p50_ms(place, peer, result["cells"]) for peer in (place.peer, "openpi"))
    return (
        place.name,
        f"{label(place.size)}, {place.rate_hz:g} Hz",
        place.way,
        f"{ours:.2f} ms",
        f"{openpi:.2f} ms",
        f"{ours / openpi:.2f}",
    )


def _p50_ms(place: Place, peer: str, cells: Iterable[Mapping[str, Any]]) -> float:
    """One robot on a core of its own, with cubic."""
    wanted = {
        "peer": peer,
        "size": place.size,
        "rate_hz": place.rate_hz,
        "robots": 1,
        "pinned": True,
        **({"link": place.link} if place.link else {"congestion": "cubic"}),
    }
    for cell in cells:
        if wanted.items() <= cell.items():
            return float(cell["p50_us"]) / 1e3
    raise ValueError(f"no result for {wanted}")


def main() -> int:
    """Write or check the document."""
    return written.main(
        "python -m tests.documents.places",
        __doc__,
        DOCUMENT,
        lambda current: render(current, RESULTS / "transport.json", RESULTS / "lan-10hz.json"),
    )


if __name__ == "__main__":
    sys.exit(main())
