"""The scheduling benchmark measures what it says and saves it; how fast it is, no test says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scheduling
from benchmarks.scheduling import Fleet, Row


def test_every_robot_is_answered_in_turn() -> None:
    fleet = Fleet(robots=20, workers=3)
    before_s = fleet.spent_s
    cost_us, beats_us = fleet.run(200)
    assert 0 < beats_us < cost_us
    assert fleet.answered >= 200
    assert cost_us == pytest.approx((fleet.spent_s - before_s) / 200 * 1e6)
    # 200 answers of 20 robots, and nobody waits for more than a round.
    assert min(fleet._sequences) >= 9
    assert fleet._core.in_hand <= 20


def test_results_are_saved_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scheduling, "ROBOTS", (1, 30))
    monkeypatch.setattr(scheduling, "WORKERS", (1, 2, 5))
    options = ["--requests", "20", "--repeats", "2", "--folder", str(tmp_path)]
    assert scheduling.main(options) == 0
    saved = json.loads((tmp_path / "scheduling.json").read_text())
    rows = [Row(**row) for row in saved["rows"]]
    combinations = [(row.robots, row.workers) for row in rows]
    assert combinations == [(r, w) for w in scheduling.WORKERS for r in scheduling.ROBOTS]
    assert all(row.fastest_us <= row.median_us <= row.slowest_us for row in rows)
    assert all(0 <= row.heartbeats_us < row.slowest_us for row in rows)
    assert (tmp_path / "scheduling.png").read_bytes().startswith(b"\x89PNG")
    assert "30 robots, 5 workers" in capsys.readouterr().out
