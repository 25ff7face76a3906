"""The agenda against a sorted list that does the same slowly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.agenda import _SLACK, Agenda

keys = st.integers(0, 5)
items = st.integers(0, 9)
steps = st.one_of(
    st.tuples(st.just("add"), keys, items),
    st.tuples(st.just("discard"), keys, items),
    st.tuples(st.just("pop"), keys, items),
)


@given(st.lists(steps, max_size=200))
def test_it_does_what_a_sorted_list_does(story: list[tuple[str, int, int]]) -> None:
    agenda: Agenda[int] = Agenda()
    model: list[tuple[int, int, int]] = []  # key, arrival, item
    for arrival, (step, key, item) in enumerate(story):
        if step == "pop":
            if model:
                assert agenda.pop() == model.pop(0)[2]
            else:
                with pytest.raises(IndexError):
                    agenda.pop()
        else:
            model = [entry for entry in model if entry[2] != item]
            if step == "add":
                agenda.add(key, item)
                model = sorted([*model, (key, arrival, item)])
            else:
                agenda.discard(item)
        assert len(agenda) == len(model)
        assert bool(agenda) == bool(model)
        assert agenda.first_key() == (model[0][0] if model else None)
        for key in range(6):
            assert agenda.count_until(key) == sum(entry[0] <= key for entry in model)
        assert sorted(agenda) == sorted(entry[2] for entry in model)
        assert all(
            (item in agenda) == any(entry[2] == item for entry in model) for item in range(10)
        )


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=600))
def test_its_memory_is_bounded_by_what_is_live(story: list[tuple[bool, int]]) -> None:
    agenda: Agenda[int] = Agenda()
    for item in range(500):
        agenda.add(item, item)
    for is_added, item in story:
        if is_added:
            agenda.add(-item, item)
        else:
            agenda.discard(item)
        assert len(agenda._heap) <= 2 * len(agenda) + _SLACK


def test_what_was_discarded_is_let_go() -> None:
    agenda: Agenda[int] = Agenda()
    for item in range(10_000):
        agenda.add(item, item)
    for item in range(10_000):
        agenda.discard(item)
    assert len(agenda._heap) <= _SLACK


def test_items_may_be_changed_while_one_goes_through_them() -> None:
    agenda: Agenda[int] = Agenda()
    for item in range(5):
        agenda.add(0, item)
    for item in agenda:
        agenda.discard(item)
    assert not agenda
