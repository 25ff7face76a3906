"""The fairness benchmark measures live robots and the job, and saves it; no test says how fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import fairness
from benchmarks.fairness import CASES, Row


def test_a_case_is_played_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fairness, "CASES", CASES[-1:])
    monkeypatch.setattr(fairness, "GREEDY", 4)
    path = tmp_path / "fairness.json"
    assert fairness.main(["--seconds", "1", "--result", str(path)]) == 0
    (row,) = (Row(**row) for row in json.loads(path.read_text())["rows"])
    assert row.case == CASES[-1].name
    assert row.live_asked > 0
    assert 0.0 < row.live_p50_ms <= row.live_p99_ms
    assert row.evaluation_per_s > 0.0
    assert "live: p50" in capsys.readouterr().out
