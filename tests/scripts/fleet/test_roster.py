"""What becomes of a fleet's members: stories of events, and what holds after any."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.fleet.config import RestartSettings
from scripts.fleet.restarts import Again, GivenUp, after_exit
from scripts.fleet.roster import SEATED, Close, Drain, Open, Roster, State

SETTINGS = RestartSettings(first_s=1.0, longest_s=30.0, tries=5, stable_s=60.0, drain_s=15.0)


class Story:
    """A roster, its clock, and a check that its commands fit together."""

    def __init__(self) -> None:
        self.now, self.roster = 0.0, Roster(SETTINGS)
        self.seats: set[tuple[str, int]] = set()
        self.drained: list[str] = []
        self.opened: dict[str, int] = defaultdict(int)

    def after(self, seconds: float = 0.0) -> Story:
        self.now += seconds
        self.roster.tick(self.now)
        for command in self.roster.commands:
            seat = command.name, command.life
            if isinstance(command, Open):
                assert not any(name == command.name for name, _ in self.seats)
                self.seats.add(seat)
                self.opened[command.name] += 1
            elif isinstance(command, Drain):
                assert seat in self.seats
                self.drained.append(command.name)
            elif isinstance(command, Close):
                self.seats.remove(seat)
        self.roster.commands.clear()
        seated = {(m.name, m.life) for m in self.roster.members.values() if m.state in SEATED}
        assert seated == self.seats
        return self

    def resize(self, group: str, size: int) -> Story:
        self.roster.resize(group, size, self.now)
        return self.after()

    def serve(self, name: str) -> None:
        life = self.roster.members[name].life
        self.roster.placed(name, life, "node")
        self.roster.ready(name, life, self.now)

    def end(self, name: str, code: int = 3, words: str = "no such file") -> Story:
        self.roster.exited(name, self.roster.members[name].life, code, words, self.now)
        return self.after()

    def states(self) -> dict[str, str]:
        return {name: member.state.value for name, member in self.roster.members.items()}


def test_members_are_started_and_numbered() -> None:
    story = Story().resize("aloha", 2)
    assert story.seats == {("aloha-1", 1), ("aloha-2", 1)}
    story.serve("aloha-2")
    assert story.states() == {"aloha-1": "pending", "aloha-2": "ready"}


def test_one_that_ends_is_started_again_later_and_later_and_given_up_with_its_words() -> None:
    story, waits = Story().resize("aloha", 1), []
    while story.roster.members["aloha-1"].state is not State.given_up:
        story.end("aloha-1")
        if (due := story.roster.wake_at()) < float("inf"):
            waits.append(due - story.now)
            story.after(waits[-1] - 0.01)
            assert not story.seats
            story.after(0.02)
            assert story.seats
    assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0])
    reason = story.roster.members["aloha-1"].reason
    assert reason == "given up, it ended 5 times in a row: exit code 3, no such file"
    story.resize("aloha", 1).after(1e6)
    assert not story.seats


def test_an_operator_has_those_that_were_given_up_tried_again() -> None:
    story = Story().resize("aloha", 1).end("aloha-1", code=2)
    assert story.states() == {"aloha-1": "given up"}
    story.roster.try_again("aloha", story.now)
    story.after()
    assert story.seats == {("aloha-1", 2)}


def test_what_was_ready_for_long_is_not_in_a_row() -> None:
    story = Story().resize("aloha", 1)
    for _ in range(20):
        story.serve("aloha-1")
        story.after(61.0).end("aloha-1", -9)
        assert story.roster.wake_at() - story.now == 1.0
        story.after(1.0)
    assert story.roster.members["aloha-1"].restarts == 20


def test_one_whose_machine_dies_is_started_at_once_and_not_given_up() -> None:
    story = Story().resize("aloha", 1)
    for life in range(1, 50):
        story.serve("aloha-1")
        story.roster.lost("aloha-1", life, "the machine is gone", story.now)
        story.after()
        assert story.seats == {("aloha-1", life + 1)}


def test_a_seat_that_cannot_be_made_is_not_tried_without_a_pause() -> None:
    story = Story().resize("aloha", 1)
    for _ in range(100):
        member = story.roster.members["aloha-1"]
        story.roster.lost("aloha-1", member.life, "no module named scripts", story.now)
        story.after(1.0)
    assert story.opened["aloha-1"] < 30


def test_those_that_leave_are_drained_and_then_killed_if_they_stay() -> None:
    story = Story().resize("aloha", 3)
    story.serve("aloha-1")
    story.serve("aloha-2")
    story.resize("aloha", 1)
    assert story.states() == {"aloha-1": "ready", "aloha-2": "draining"}  # 3 was not there yet
    assert story.drained == ["aloha-2"]
    story.after(14.0)
    assert ("aloha-2", 1) in story.seats
    story.after(1.0)
    assert story.seats == {("aloha-1", 1)}


def test_one_that_drained_in_time_is_not_started_again() -> None:
    story = Story().resize("aloha", 1)
    story.serve("aloha-1")
    story.resize("aloha", 0).end("aloha-1", code=0)
    assert story.after(1e6).states() == {}


def test_a_new_one_does_not_take_the_number_of_one_that_still_drains() -> None:
    story = Story().resize("aloha", 1)
    story.serve("aloha-1")
    story.resize("aloha", 0).resize("aloha", 1)
    assert story.states() == {"aloha-1": "draining", "aloha-2": "pending"}


def test_what_an_earlier_life_says_is_too_late() -> None:
    story = Story().resize("aloha", 1).end("aloha-1").after(1.0)
    story.roster.ready("aloha-1", 1, story.now)
    story.roster.exited("aloha-1", 1, 0, "", story.now)
    story.roster.lost("aloha-1", 1, "gone", story.now)
    assert story.after().states() == {"aloha-1": "pending"}


def test_a_seat_of_an_earlier_director_goes_on() -> None:
    story = Story()
    story.roster.adopt("aloha", 2, 7, 0.0)
    story.seats = {("aloha-2", 7)}
    story.resize("aloha", 2)
    assert story.seats == {("aloha-2", 7), ("aloha-1", 1)}


def test_of_two_lives_of_one_member_the_older_is_closed() -> None:
    for lives in ((7, 6), (6, 7)):
        roster = Roster(SETTINGS)
        for life in lives:
            roster.adopt("aloha", 1, life, 0.0)
        assert roster.commands == [Close("aloha-1", 6)]
        assert roster.members["aloha-1"].life == 7


@pytest.mark.parametrize("code", [2])
def test_wrong_settings_are_not_tried_again(code: int) -> None:
    assert isinstance(after_exit(code, 0, None, SETTINGS), GivenUp)


@given(st.integers(-64, 255), st.integers(0, 10_000), st.none() | st.floats(0, 1e9))
def test_no_pause_is_longer_than_the_longest(
    code: int, failures: int, ready_s: float | None
) -> None:
    verdict = after_exit(code, failures, ready_s, SETTINGS)
    if isinstance(verdict, Again):
        assert SETTINGS.first_s <= verdict.wait_s <= SETTINGS.longest_s
        assert verdict.failures < SETTINGS.tries


MOVES = st.tuples(
    st.sampled_from(["resize", "ready", "placed", "end", "lost", "wait", "again"]),
    st.sampled_from(["aloha", "droid"]),
    st.integers(0, 5),
)


@given(st.lists(MOVES, max_size=60))
def test_after_any_history_seats_and_members_agree_and_all_can_end(
    history: list[tuple[str, str, int]],
) -> None:
    story, sizes = Story(), {"aloha": 0, "droid": 0}
    for move, group, number in history:
        name = f"{group}-{number}"
        member = story.roster.members.get(name)
        life = member.life if member else 1
        if move == "resize":
            sizes[group] = number
            story.resize(group, number)
        elif move == "again":
            story.roster.try_again(group, story.now)
        elif move == "wait":
            story.after(float(number) * 5)
        elif move == "placed":
            story.roster.placed(name, life, "node")
        elif move == "ready":
            story.roster.ready(name, life, story.now)
        elif move == "end":
            story.roster.exited(name, life, number, "", story.now)
        else:
            story.roster.lost(name, life, "gone", story.now)
        story.after()
        for each, size in sizes.items():
            assert len(story.roster.of(each)) == size
    for group in sizes:
        story.resize(group, 0)
    story.after(SETTINGS.drain_s)
    assert not story.seats
    assert not story.roster.members
