"""The plan of one robot, as lists of events on a clock of the test's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from client.chunk_schedule import SLOWEST, ChunkSchedule, Request, ScheduleOptions, Step
from client.latency import LatencyEstimate

HZ = 50.0
ROWS = 10


class Robot:
    """Steps at 50 Hz; an answer comes when the test says so, or after `latencies`."""

    def __init__(self, **options: Any) -> None:
        self.schedule = ChunkSchedule(ScheduleOptions(HZ, **options))
        self.now = 0.0
        self.asked: list[Request] = []
        self.due: list[tuple[float, Request]] = []

    def step(self, latency_s: float | None = None, rows: int = ROWS) -> Step:
        """One control step; what is asked for in it is answered after `latency_s`."""
        for at, request in [d for d in self.due if d[0] <= self.now + 1e-9]:
            self.due.remove((at, request))
            self.schedule.answered(request, plan(request, len(self.asked), rows), at)
        step = self.schedule.step(self.now)
        if step.request is not None:
            self.asked.append(step.request)
            if latency_s is not None:
                self.due.append((self.now + latency_s, step.request))
        self.now += 1 / HZ
        return step

    def answer(self, offset: float = 0.0, rows: int = ROWS) -> None:
        """To the latest request, now."""
        chunk = plan(self.asked[-1], 0, rows) + offset
        self.schedule.answered(self.asked[-1], chunk, self.now)


def plan(request: Request, chunk: int, rows: int) -> Any:
    """Each action tells when it is due; the second number, of which chunk it is."""
    due = request.position + np.arange(rows)
    return np.stack([due, np.full(rows, float(chunk))], axis=1)


def values(steps: list[Step]) -> list[float]:
    return [math.nan if step.action is None else float(step.action[0]) for step in steps]


def test_an_episode_begins_with_the_first_action_however_late_it_comes() -> None:
    robot = Robot()
    waiting = [robot.step() for _ in range(30)]
    assert [step.action for step in waiting] == [None] * 30
    assert len(robot.asked) == 1
    robot.answer()
    assert values([robot.step(), robot.step()]) == [0.0, 1.0]
    statistics = robot.schedule.statistics()
    assert (statistics.waited, statistics.skipped, statistics.held) == (30, 0, 0)


def test_exactly_what_was_executed_meanwhile_is_skipped() -> None:
    robot = Robot(action_horizon=4)
    robot.step()
    robot.answer()
    before = values([robot.step() for _ in range(6)])
    assert before == [0, 1, 2, 3, 4, 5]
    asked_at = robot.asked[-1].position
    robot.answer(offset=100.0)
    assert values([robot.step()]) == [106.0]
    assert robot.schedule.statistics().skipped == 6 - asked_at


def test_held_steps_are_not_taken_for_executed_ones() -> None:
    robot = Robot(action_horizon=ROWS)
    robot.step()
    robot.answer()
    steps = [robot.step() for _ in range(ROWS + 5)]
    assert values(steps)[-6:] == [9.0] * 6
    assert [step.is_fresh for step in steps] == [True] * ROWS + [False] * 5
    request = robot.asked[-1]
    robot.answer(offset=100.0)
    assert values([robot.step()]) == [110.0]
    assert robot.schedule.statistics().skipped == ROWS - request.position
    assert robot.schedule.statistics().held == 5


def test_no_step_is_starved_where_answers_come_as_they_came_before() -> None:
    robot, random = Robot(action_horizon=25), np.random.default_rng(0)
    steps = [robot.step(0.1 + 0.1 * random.random(), rows=50) for _ in range(2000)]
    first = next(i for i, step in enumerate(steps) if step.is_fresh)
    assert all(step.is_fresh for step in steps[first:])
    statistics = robot.schedule.statistics()
    assert statistics.held == 0
    assert 0.15 < (statistics.expected_latency_s or 0.0) <= 0.2
    assert values(steps[first:]) == list(range(2000 - first))


def test_a_chunk_is_asked_for_as_late_as_the_horizon_allows() -> None:
    robot = Robot(action_horizon=8)
    for _ in range(200):
        robot.step(3 / HZ)
    starts = [request.position for request in robot.asked[2:]]
    # Asked for 3 steps before 8 of a chunk are executed: one every 5 steps.
    assert set(np.diff(starts)) == {5.0}


def test_one_slow_inference_is_forgotten() -> None:
    estimate = LatencyEstimate()
    estimate.add(30.0)
    assert estimate.seconds == 30.0
    for _ in range(12):
        estimate.add(0.1)
    assert estimate.seconds == 0.1


def test_before_any_answer_nothing_is_known() -> None:
    assert LatencyEstimate().seconds is None


def test_the_estimate_is_a_high_quantile() -> None:
    estimate = LatencyEstimate()
    for latency in np.random.default_rng(0).permutation(np.linspace(0.1, 0.2, 64)):
        estimate.add(float(latency))
    assert 0.17 < (estimate.seconds or 0.0) <= 0.2


def test_replacing_jumps_at_the_seam_and_it_is_measured() -> None:
    robot = Robot(action_horizon=4)
    robot.step()
    robot.answer()
    for _ in range(5):
        robot.step()
    robot.answer(offset=7.0)
    step = robot.step()
    assert step.is_seam
    statistics = robot.schedule.statistics()
    assert statistics.seams == 1
    assert statistics.max_seam_jump == pytest.approx(math.hypot(8, 7))
    assert statistics.mean_inside_change == pytest.approx(1.0)


def test_average_weighs_old_and_new_where_both_are() -> None:
    robot = Robot(merge="average", action_horizon=4, average_weights=(1.0, 3.0))
    robot.step()
    robot.answer()
    for _ in range(5):
        robot.step()
    request = robot.asked[-1]
    robot.answer(offset=8.0)
    got = values([robot.step() for _ in range(4)])
    assert got == [5 + 6, 6 + 6, 7 + 6, 8 + 6]
    later = values([robot.step() for _ in range(int(request.position) + ROWS - 9)])
    assert later[0] == 9 + 6
    assert later[1:] == [10 + 8 + i for i in range(len(later) - 1)]


def test_an_ensemble_weighs_the_oldest_most() -> None:
    robot = Robot(merge="ensemble", action_horizon=1, ensemble_decay=0.5)
    robot.step()
    robot.answer()
    for offset in (10.0, 20.0):
        robot.step()
        robot.answer(offset=offset)
    (got,) = values([robot.step()])
    weights = np.exp(-0.5 * np.arange(3))
    assert got == pytest.approx(2 + (weights @ [0, 10, 20]) / weights.sum())


def test_a_leftover_begins_with_the_action_that_is_due() -> None:
    robot = Robot(merge="rtc", action_horizon=5, rtc={"mode": "vjp", "schedule": None})
    robot.step()
    assert robot.asked[0].options == {}
    robot.now += 3 / HZ  # the robot's clock stood, the answer came
    robot.answer()
    steps = [robot.step() for _ in range(4)]
    request = robot.asked[-1]
    assert request is not robot.asked[0]
    due = next(step for step in steps if step.request is request)
    assert due.action is not None
    leftover = request.options["prev_actions"]
    assert leftover[0].tolist() == due.action.tolist()
    assert len(leftover) == ROWS - request.position
    assert request.options["inference_delay"] == 4
    assert request.options["mode"] == "vjp"
    assert "schedule" not in request.options


def test_a_delay_is_never_more_than_what_is_left() -> None:
    robot = Robot(merge="rtc", action_horizon=ROWS)
    robot.step()
    robot.now += 1.0
    robot.answer()
    robot.step()
    options = robot.asked[-1].options
    assert options["inference_delay"] == len(options["prev_actions"]) == ROWS


def test_a_robot_that_has_nothing_left_sends_no_leftover() -> None:
    robot = Robot(merge="rtc", action_horizon=ROWS)
    robot.step()
    robot.answer()
    for _ in range(ROWS):
        robot.step()
    robot.schedule.failed(robot.asked[-1], robot.now, pauses=False)
    robot.step()
    assert robot.asked[-1].options == {}


def test_slowing_down_stretches_what_is_left() -> None:
    robot = Robot(starvation="slow", action_horizon=ROWS)
    robot.step()
    robot.answer()
    robot.schedule._latency.add(30 / HZ)
    steps = [robot.step() for _ in range(20)]
    assert all(step.is_fresh for step in steps)
    got = values(steps)
    assert got == sorted(got)
    assert min(np.diff(got)) >= SLOWEST - 1e-9
    assert robot.schedule.statistics().slowed > 10
    robot.answer(offset=100.0, rows=100)
    position = robot.schedule.position
    (resumed,) = values([robot.step()])
    assert resumed == pytest.approx(100 + position)
    on = values([robot.step() for _ in range(3)])
    assert on[1:] == [math.floor(position + 1e-9) + 100 + n for n in (2, 3)]


def test_a_reset_drops_what_is_in_flight() -> None:
    robot = Robot()
    robot.step()
    old = robot.asked[-1]
    robot.schedule.reset()
    robot.step()
    assert robot.asked[-1] is not old
    robot.schedule.answered(old, np.full((ROWS, 2), 666.0), robot.now)
    assert robot.step().action is None
    robot.answer()
    assert values([robot.step()]) == [0.0]
    assert robot.schedule.statistics().dropped == 1


def test_after_a_failure_it_is_asked_again_and_later_each_time() -> None:
    robot = Robot()
    gaps = []
    for _ in range(4):
        started = robot.now
        while robot.step().request is None:
            pass
        gaps.append(robot.now - started)
        robot.schedule.failed(robot.asked[-1], robot.now, pauses=True)
    assert gaps == sorted(gaps)
    assert gaps[-1] > 2 * gaps[1]
    robot.now += 60.0
    assert robot.step().request is not None
    robot.schedule.failed(robot.asked[-1], robot.now, pauses=False)
    assert robot.step().request is None or robot.schedule.is_asking


def test_a_chunk_that_is_stale_as_a_whole_changes_nothing() -> None:
    robot = Robot(action_horizon=2)
    robot.step()
    robot.answer()
    for _ in range(8):
        robot.step()
    request = robot.asked[-1]
    assert request.position < 3
    robot.schedule.answered(request, plan(request, 0, 3) + 100, robot.now)
    assert values([robot.step()]) == [8.0]


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        (np.zeros(3), r"shape \(3,\): not \(rows, dims\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((4, 3)), "an action_horizon of 5 is too long"),
    ],
)
def test_an_answer_that_is_no_chunk_is_refused(actions: Any, said: str) -> None:
    robot = Robot(action_horizon=5)
    robot.step()
    with pytest.raises(ValueError, match=said):
        robot.schedule.answered(robot.asked[0], actions, robot.now)
    robot.answer()
    assert robot.step().action is not None


def test_a_chunk_of_other_dims_is_refused() -> None:
    robot = Robot(action_horizon=2)
    robot.step()
    robot.answer()
    while len(robot.asked) < 2:
        robot.step()
    with pytest.raises(ValueError, match="actions of 5 dims after 2"):
        robot.schedule.answered(robot.asked[-1], np.zeros((6, 5)), robot.now)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"control_hz": 0.0}, "control_hz is 0.0"),
        ({"control_hz": math.nan}, "control_hz is nan"),
        ({"control_hz": -50.0}, "control_hz is -50.0"),
        ({"merge": "magic"}, "merge is 'magic': one of replace, average, ensemble, rtc"),
        ({"starvation": "panic"}, "starvation is 'panic': one of hold, slow, raise"),
        ({"action_horizon": 0}, "action_horizon is 0"),
        ({"average_weights": (1.0, 0.0)}, "average_weights"),
        ({"average_weights": (-1.0, 1.0)}, "average_weights"),
        ({"average_weights": (1.0, math.nan)}, "average_weights"),
        ({"average_weights": (1.0,)}, "average_weights"),
        ({"ensemble_decay": -0.1}, "ensemble_decay"),
    ],
)
def test_options_out_of_their_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ScheduleOptions(**{"control_hz": HZ, **options})
