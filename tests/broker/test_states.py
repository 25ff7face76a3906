"""Which moves there are, and that there are no others."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest

from broker.states import REQUEST_MOVES, WORKER_MOVES, RequestState, WorkerState, move

TABLES = [(WORKER_MOVES, WorkerState), (REQUEST_MOVES, RequestState)]
FINAL = {
    WorkerState.GONE,
    RequestState.ANSWERED,
    RequestState.FAILED,
    RequestState.EXPIRED,
    RequestState.SUPERSEDED,
}


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_every_move_is_in_the_table_or_raises(table: Mapping[Any, Any], states: Any) -> None:
    causes = {cause for _, cause in table} | {"unheard of"}
    for state, cause in product(states, causes):
        if (state, cause) in table:
            assert move(table, state, cause) is table[state, cause]
        else:
            with pytest.raises(RuntimeError, match=f"no move from {state} by '{cause}'"):
                move(table, state, cause)


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_final_states_are_the_ones_without_a_way_on(table: Mapping[Any, Any], states: Any) -> None:
    assert {state for state in states if not any(start is state for start, _ in table)} == {
        state for state in states if state in FINAL
    }


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_every_state_can_be_reached(table: Mapping[Any, Any], states: Any) -> None:
    first = next(iter(states))
    assert set(table.values()) | {first} == set(states)


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
