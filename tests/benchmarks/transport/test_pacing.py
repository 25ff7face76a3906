"""A robot asks at its ticks, and its latencies are those of the answers alone."""

from __future__ import annotations

import pytest

from benchmarks.transport.observations import Answer
from benchmarks.transport.pacing import UNTIMED, Taken, Turn, take


class Robot:
    """Its own clock, which passes only while it sleeps and while it waits for answers."""

    def __init__(self, answers_s: list[float], then_s: float = 0.001) -> None:
        self.now = 100.0
        self.asked_at: list[float] = []
        self._answers_s = iter(answers_s)
        self._then_s = then_s

    def ask(self) -> Answer:
        self.asked_at.append(self.now)
        self.now += next(self._answers_s, self._then_s)
        return {"number": len(self.asked_at)}

    def split(self, answer: Answer, total_ms: float) -> dict[str, float]:
        self.now += 0.5  # however long it takes
        return {"number": answer["number"], "total": total_ms}

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0.0
        self.now += seconds

    def take(self, turn: Turn) -> Taken:
        return take(self.ask, turn, self.split, lambda: self.now, self.sleep)

    @property
    def timed_at(self) -> list[float]:
        """When it asked, in seconds after the first moment that counts."""
        began = 100.0 + UNTIMED * self._then_s
        return [at - began for at in self.asked_at[UNTIMED:]]


def test_back_to_back_asks_when_the_answer_is_there() -> None:
    robot = Robot([])
    taken = robot.take(Turn(0.0, seconds=0.0105))
    assert robot.timed_at == pytest.approx([0.001 * number for number in range(11)])
    assert taken.latencies_us == pytest.approx([1000.0] * 11)
    assert taken.elapsed_s == pytest.approx(0.011)


def test_a_paced_robot_asks_at_its_ticks() -> None:
    robot = Robot([])
    taken = robot.take(Turn(50.0, seconds=0.095))
    assert robot.timed_at == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08])
    assert taken.latencies_us == pytest.approx([1000.0] * 5)


def test_robots_are_apart_by_their_offsets() -> None:
    robot = Robot([])
    robot.take(Turn(50.0, seconds=0.055, offset=0.5))
    assert robot.timed_at == pytest.approx([0.01, 0.03, 0.05])


def test_a_late_answer_costs_its_tick_and_no_other() -> None:
    robot = Robot([*[0.001] * UNTIMED, 0.025])
    taken = robot.take(Turn(50.0, seconds=0.075))
    assert robot.timed_at == pytest.approx([0.0, 0.04, 0.06])
    assert taken.latencies_us == pytest.approx([25_000.0, 1000.0, 1000.0])


@pytest.mark.parametrize("rate_hz", [0.0, 10.0])
def test_however_short_the_turn_there_is_a_figure(rate_hz: float) -> None:
    assert len(Robot([]).take(Turn(rate_hz, seconds=0.0, offset=0.9)).latencies_us) == 1


@pytest.mark.parametrize("rate_hz", [0.0, 1.0])
def test_stages_are_told_of_timed_requests_and_cost_none_of_their_time(rate_hz: float) -> None:
    taken = Robot([]).take(Turn(rate_hz, seconds=2.5, split=True))
    numbers = [stages["number"] for stages in taken.stages_ms]
    assert numbers == [UNTIMED + 1 + index for index in range(len(taken.latencies_us))]
    assert taken.latencies_us == pytest.approx([1000.0] * len(numbers))
    assert [stages["total"] for stages in taken.stages_ms] == pytest.approx([1.0] * len(numbers))


def test_stages_are_not_told_unless_asked_for() -> None:
    assert not Robot([]).take(Turn(0.0, seconds=0.0105)).stages_ms
