"""`python -m tests.documents.state_diagrams`: writes the state tables into `docs/protocol.md`.

The tables in `broker.states` are the program; the diagrams are drawn from them, so they cannot
differ. `--check` only compares, and exits 1 if the document is out of date.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from broker.states import REQUEST_MOVES, WORKER_MOVES, RequestState, State, WorkerState
from tests.documents import written

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


def diagram(table: Mapping[tuple[State, str], State], first: State) -> str:
    """A Mermaid state diagram of one table; moves that lead back to their start are left out."""
    causes: defaultdict[tuple[State, State], list[str]] = defaultdict(list)
    for (state, cause), following in table.items():
        if state is not following:
            causes[state, following].append(cause)
    lines: list[str] = [f"    [*] --> {first.name}"]
    lines += [f"    {a.name} --> {b.name}: {', '.join(why)}" for (a, b), why in causes.items()]
    ends = {state for state in type(first) if all(state is not start for start, _ in table)}
    lines += [f"    {state.name} --> [*]" for state in type(first) if state in ends]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def render(document: str) -> str:
    """The document with both diagrams replaced.

    Raises:
        ValueError: the document has no place for one.
    """
    for name, drawing in (
        ("worker", diagram(WORKER_MOVES, WorkerState.WARMING)),
        ("request", diagram(REQUEST_MOVES, RequestState.WAITING)),
    ):
        document = written.replace_part(document, f"{name} states", [drawing])
    return document


def main() -> int:
    """Write or check the document."""
    return written.main("python -m tests.documents.state_diagrams", __doc__, DOCUMENT, render)


if __name__ == "__main__":
    sys.exit(main())
