"""The load benchmark counts what it says, and runs; how good the figures are, no test says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.load import __main__ as command
from benchmarks.load.kinds import MIXED, Kind, by_chunk, population
from benchmarks.load.parts import JUDGED, QUICK, goodput_figures, scaling_figures
from benchmarks.load.robots import Order, Robots
from benchmarks.load.tally import ANSWERED, SKIPPED, Tally, Wish
from scripts.local.deployment import await_ready
from scripts.local.processes import Processes
from tests.e2e.stack import Stack


def test_a_robot_asks_as_often_as_its_chunk_allows() -> None:
    kind = by_chunk("droid", 15.0, 15, 8)
    assert kind.period_s == pytest.approx(8 / 15)
    assert kind.deadline_s == pytest.approx(7 / 15)


@pytest.mark.parametrize("load", [0.5, 1.0, 2.0])
def test_a_population_asks_for_what_the_load_says(load: float) -> None:
    robots = population(load, 160.0)
    asked = sum(1.0 / robot.period_s for robot in robots)
    assert load * 160.0 <= asked < load * 160.0 + 2.0
    assert {robot.name for robot in robots} == {kind.name for kind in MIXED}


def test_what_is_answered_late_is_of_no_use() -> None:
    wishes = [
        Wish(10.0, 0.5, ANSWERED, 10.4, policy_ms=50.0),
        Wish(10.0, 0.5, ANSWERED, 10.6),
        Wish(10.0, 0.5, "overloaded", 10.1),
        Wish(10.0, 0.5, SKIPPED),
    ]
    tally = Tally(10.0, 12.0, wishes, robots=4)
    assert tally.share_in_time == 0.25
    assert tally.goodput == 0.5
    assert tally.outcomes == {ANSWERED: 1, "late": 1, "overloaded": 1, SKIPPED: 1}
    assert tally.took_ms == pytest.approx([400.0, 600.0])
    assert tally.added_ms[0] == pytest.approx(350.0)
    assert tally.answers_per_s(wishes) == 1.0


def test_the_brokers_limit_names_the_thread_that_binds_it() -> None:
    rates = {1: 20.0, 2: 39.0, 4: 70.0}
    figures = scaling_figures(rates, 1500.0, {"python 1": 0.5, "ZMQbg/IO/0 2": 0.75})
    values = {figure.name.strip(): figure for figure in figures}
    assert values["2 workers, of linear"].passes
    assert not values["4 workers, of linear"].passes
    assert values["its busiest thread (ZMQbg/IO/0) used"].value == 0.75
    assert values["so a whole core for that thread would carry"].value == pytest.approx(2000.0)


def test_nothing_answered_in_time_is_no_division_by_zero() -> None:
    def tally(in_time: int) -> Tally:
        wishes = [Wish(0.0, 0.5, ANSWERED, 0.1 if n < in_time else 0.9) for n in range(20)]
        return Tally(0.0, 1.0, wishes, robots=3)

    curves = {
        order.value: {load: tally(8 if order is Order.OURS else 0) for load in QUICK.loads}
        for order in Order
    }
    ratio = next(f for f in goodput_figures(curves, QUICK) if f.at_least)
    assert f"{JUDGED:g}" in ratio.name
    assert ratio.passes
    assert ratio.value == pytest.approx(8.0)


def test_first_come_first_served_gives_nothing_up(tmp_path: Path) -> None:
    """Robots that wait for less than an inference: ours says so, and FCFS computes in vain."""
    kinds = [Kind("hasty", 0.05, 0.04)] * 3
    outcomes = {}
    with Processes(tmp_path / "logs") as processes:
        stack = Stack(processes, tmp_path)
        stack.broker("limits.max_requests_per_robot=1000").wait_ready()
        stack.worker("noop", "policy.time_s=0.1", policy="noop").wait_ready()
        await_ready(stack.client(), 1)  # the broker knows it too: these robots wait for nothing
        for order in Order:
            with Robots(stack.frontend, kinds, {"x": 1}, order) as robots:
                outcomes[order] = robots.run(0.0, 1.0).outcomes
        stack.close()
    refused = {"overloaded", "deadline_exceeded", "superseded"}
    assert refused & set(outcomes[Order.OURS])
    assert not refused & set(outcomes[Order.FCFS])
    for found in outcomes.values():
        assert set(found) <= refused | {ANSWERED, "late", "silence"}


def test_the_quick_form_measures_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "LOGS", tmp_path / "logs")
    result = tmp_path / "load.json"
    # Its figures may miss their bars on a busy machine.
    assert command.main(["--quick", "--result", str(result), "--only", "crowd"]) in (
        0,
        1,
    )
    saved = json.loads(result.read_text())
    assert set(saved) == {"crowd"}
    assert {"measured", "machine", "busy", "others_cores", "figures"} <= set(saved["crowd"])
    wished = saved["crowd"]["figures"][0]
    assert wished["value"] == pytest.approx(QUICK.robots, abs=2)
    assert "1 Hz" in capsys.readouterr().out


def test_a_wrong_part_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(["--only", "scalign"])
    assert end.value.code == 2
    assert "scaling" in capsys.readouterr().err
