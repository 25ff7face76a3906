"""The benchmark of a rollout plays its cases and saves them; no test says how fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import rollout
from benchmarks.rollout import CASES, Row


def test_a_case_is_played_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rollout, "CASES", [case for case in CASES if "fails" in case.arguments])
    monkeypatch.setattr(rollout, "WORKERS", 1)
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "rollout.json"
    assert rollout.main(["--seconds", "1", "--result", str(path)]) == 0
    (row,) = (Row(**row) for row in json.loads(path.read_text())["rows"])
    assert (row.exit_code, row.lost, row.to_new) == (3, 0, 0)
    assert row.failed >= 3
    assert row.before_p99_ms > 0.0
    assert row.during_p99_ms <= row.during_longest_ms
    assert "by the new" in capsys.readouterr().out
