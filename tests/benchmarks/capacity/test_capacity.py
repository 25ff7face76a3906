"""The simulated fleet asks and answers as it says, and the calculation is the one of the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.capacity import __main__ as command
from benchmarks.capacity import plan
from benchmarks.capacity.fleet import LINK_S, Fleet
from benchmarks.capacity.plan import Plan
from benchmarks.load.kinds import MIXED, Kind


def test_every_robot_asks_at_its_pace_and_is_answered_once() -> None:
    kinds = [Kind("2 Hz", 0.5, 0.5)] * 40
    fleet = Fleet(kinds, workers=4, inference_s=0.01, seed=0)
    fleet.counts.count_from = 1.0
    fleet.run_until(3.0)
    counts = fleet.counts
    assert counts.events["infer"] == 40 * 2 * 2
    assert abs(counts.outcomes["in time"] - 160) <= 4
    assert set(counts.outcomes) == {"in time"}
    assert fleet.unanswered <= 4
    assert min(counts.took_ms) >= (0.9 * 0.01 + 2 * LINK_S) * 1e3
    assert all(spent > 0.0 for spent in counts.spent_s.values())
    assert {"infer", "result", "heartbeat", "tick"} == set(counts.events)


def test_too_few_workers_answer_as_many_as_they_can_in_time() -> None:
    fleet = Fleet([MIXED[n % 4] for n in range(90)], workers=4, inference_s=0.05, seed=1)
    fleet.counts.count_from = 2.0
    fleet.run_until(8.0)
    outcomes = fleet.counts.outcomes
    # 90 robots ask for 160 a second, and four workers give 80.
    assert 0.4 < outcomes["in time"] / outcomes.total() < 0.55
    assert outcomes["in time"] / 6.0 > 0.85 * 80.0


def test_what_it_finds_is_saved_for_each_number_of_brokers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "capacity.json"
    sizes = ["--robots", "40", "--workers", "6", "--seconds", "0.5"]
    assert command.main([*sizes, "--brokers", "1", "3", "--result", str(result)]) == 0
    saved = json.loads(result.read_text())
    assert set(saved) == {"1 brokers", "3 brokers"}
    for part in saved.values():
        values = {row["name"].strip(): row["value"] for row in part["figures"]}
        assert values["in time"] == 100.0
        assert 0.0 < values["it works for"] < 100.0
    assert "40 robots" in capsys.readouterr().out


def test_no_robots_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--robots", "0"])
    assert "above 0" in capsys.readouterr().err


def test_the_calculation() -> None:
    aloha = Plan(inference_s=0.05, broker_per_s=2000.0)
    assert aloha.asks_per_s == 2.0
    assert aloha.deadline_s == 0.5
    assert aloha.per_gpu() == 7  # 20 a second, three quarters of them
    assert aloha.per_broker() == 750
    assert aloha.per_link() == 155
    assert aloha.left_s == pytest.approx(0.5 - 0.05 - 0.002408)


def test_the_measured_limit_is_read_or_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="--broker-per-s"):
        plan.measured_limit(tmp_path / "none.json")
    row = {"name": "  so a whole core for that thread would carry", "value": 1234.0}
    (tmp_path / "load.json").write_text(json.dumps({"scaling": {"figures": [row]}}))
    assert plan.measured_limit(tmp_path / "load.json") == 1234.0
    assert plan.main(["--broker-per-s", "2000"]) == 0
    assert "750 robots" in capsys.readouterr().out
    assert plan.main(["--broker-per-s", "2000", "--used", "48"]) == 1
    assert "in time" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        plan.main(["--used", "50"])
    assert "from 1 to 49" in capsys.readouterr().err
