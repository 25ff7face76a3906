"""Every row of the state tables is reached by some history of events, and there are no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from broker import requests, workers
from broker.config import Timers
from broker.states import REQUEST_MOVES, WORKER_MOVES, RequestState, WorkerState, move
from tests.broker.scenario import Scenario

SUSPECT_S = Timers().suspect_ms / 1e3 + 0.3
LEASE_S = Timers().shortest_lease_ms / 1e3 + 0.01  # of the scenario's fast workers

_W, _R = WorkerState, RequestState
Row = tuple[Any, str]


class Watched(dict[Row, Any]):
    """A table that remembers which of its rows were looked up."""

    def __init__(self, table: Mapping[Any, Any]) -> None:
        super().__init__(table)
        self.used: set[Row] = set()

    def get(self, row: Row, default: Any = None) -> Any:
        self.used.add(row)
        return super().get(row, default)


def warming(story: Scenario) -> None:
    story.hello("w1")


def ready(story: Scenario) -> None:
    story.join("w1", slots=2)


def silent(story: Scenario) -> None:
    ready(story)
    story.silent.add("w1")
    story.after(SUSPECT_S)


def draining(story: Scenario) -> None:
    ready(story)
    story.beat("w1", state="draining")


def waiting(story: Scenario) -> None:
    story.ask("arm", deadline_s=3.0)


def leased(story: Scenario) -> None:
    ready(story)
    waiting(story)


def overdue(story: Scenario) -> None:
    """The worker has it still, and the request waits for another."""
    leased(story)
    story.after(LEASE_S)


def says_ready(story: Scenario) -> None:
    story.ready("w1", slots=2)


def starts_to_drain(story: Scenario) -> None:
    story.beat("w1", state="draining")


def dies(story: Scenario) -> None:
    story.die("w1")


def is_heard(story: Scenario) -> None:
    story.beat("w1")


def finishes(story: Scenario) -> None:
    story.finish("w1")


def fails(story: Scenario) -> None:
    story.finish("w1", "failure", code="policy_failed", message="")


def is_late(story: Scenario) -> None:
    story.after(LEASE_S)


def asks_and_is_late(story: Scenario) -> None:
    story.ask("arm")
    story.ask("leg")
    story.after(LEASE_S)


def asks_drains_and_is_late(story: Scenario) -> None:
    story.ask("arm")
    starts_to_drain(story)
    story.after(LEASE_S)


def is_reset(story: Scenario) -> None:
    story.request("arm", "reset", session="")


def expires(story: Scenario) -> None:
    story.after(4.0)


def asks_anew(story: Scenario) -> None:
    story.ask("arm")


# How each row is reached: what happens first, and then the cause itself.
HISTORIES: Mapping[Row, tuple[Callable[[Scenario], None], ...]] = {
    (_W.WARMING, "ready"): (warming, says_ready),
    (_W.WARMING, "drain"): (warming, starts_to_drain),
    (_W.WARMING, "lost"): (warming, dies),
    (_W.READY, "ready"): (ready, says_ready),
    (_W.READY, "silent"): (silent,),
    (_W.READY, "overdue"): (leased, is_late),
    (_W.READY, "drain"): (ready, starts_to_drain),
    (_W.READY, "lost"): (ready, dies),
    (_W.SUSPECT, "ready"): (silent, says_ready),
    (_W.SUSPECT, "overdue"): (ready, asks_and_is_late),
    (_W.SUSPECT, "cleared"): (silent, is_heard),
    (_W.SUSPECT, "drain"): (silent, starts_to_drain),
    (_W.SUSPECT, "lost"): (silent, dies),
    (_W.DRAINING, "ready"): (draining, says_ready),
    (_W.DRAINING, "overdue"): (ready, asks_drains_and_is_late),
    (_W.DRAINING, "drain"): (draining, starts_to_drain),
    (_W.DRAINING, "lost"): (draining, dies),
    (_R.WAITING, "lease"): (waiting, ready),
    (_R.WAITING, "answer"): (overdue, finishes),
    (_R.WAITING, "fail"): (waiting, is_reset),
    (_R.WAITING, "expire"): (waiting, expires),
    (_R.WAITING, "supersede"): (waiting, asks_anew),
    (_R.LEASED, "requeue"): (leased, dies),
    (_R.LEASED, "answer"): (leased, finishes),
    (_R.LEASED, "fail"): (leased, fails),
    (_R.LEASED, "expire"): (leased, dies, ready, expires),
}


@pytest.mark.parametrize("row", HISTORIES, ids=lambda row: f"{row[0].value}-{row[1]}")
def test_each_row_is_reached(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Watched(WORKER_MOVES), Watched(REQUEST_MOVES)
    monkeypatch.setattr(workers, "WORKER_MOVES", tables[0])
    monkeypatch.setattr(requests, "REQUEST_MOVES", tables[1])
    story = Scenario()
    *first, cause = HISTORIES[row]
    for happens in first:
        happens(story)
    for table in tables:
        table.used.clear()
    cause(story)
    assert row in tables[0].used | tables[1].used


def test_no_row_is_dead() -> None:
    assert HISTORIES.keys() == WORKER_MOVES.keys() | REQUEST_MOVES.keys()


@pytest.mark.parametrize(
    ("table", "state", "cause"),
    [
        (WORKER_MOVES, WorkerState.GONE, "ready"),
        (WORKER_MOVES, WorkerState.WARMING, "overdue"),
        (REQUEST_MOVES, RequestState.ANSWERED, "answer"),
        (REQUEST_MOVES, RequestState.LEASED, "unheard of"),
    ],
)
def test_a_move_that_is_in_no_table_raises(table: Any, state: Any, cause: str) -> None:
    with pytest.raises(RuntimeError, match=f"no move from {state} by '{cause}'"):
        move(table, state, cause)


@pytest.mark.parametrize("table", [WORKER_MOVES, REQUEST_MOVES])
def test_nothing_leads_out_of_a_final_state(table: Mapping[Row, Any]) -> None:
    final = {
        WorkerState.GONE,
        RequestState.ANSWERED,
        RequestState.FAILED,
        RequestState.EXPIRED,
        RequestState.SUPERSEDED,
    }
    assert not {state for state, _ in table} & final


def test_only_a_ready_worker_becomes_suspect_and_only_a_suspect_is_cleared() -> None:
    entries = {(start, end) for (start, _), end in WORKER_MOVES.items() if start is not end}
    assert {start for start, end in entries if end is WorkerState.SUSPECT} == {WorkerState.READY}
    assert {start for start, end in entries if end is WorkerState.READY} == {
        WorkerState.WARMING,
        WorkerState.SUSPECT,
    }
    assert {start for start, end in entries if end is WorkerState.GONE} == (
        set(WorkerState) - {WorkerState.GONE}
    )
