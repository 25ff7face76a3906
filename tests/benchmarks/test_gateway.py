"""The gateway's benchmark measures its parts and saves them; no test says how good they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gateway


def test_a_part_is_measured_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gateway, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(gateway, "CROWD", 5)
    result = tmp_path / "gateway.json"
    # The bar may be missed on a busy machine.
    words = ["--only", "page", "--seconds", "0.2", "--result", str(result)]
    assert gateway.main(words) in (0, 1)
    (figure,) = json.loads(result.read_text())["page"]["figures"]
    assert figure["name"].startswith("5 robots")
    assert figure["value"] > 0.0
    assert "of a core" in capsys.readouterr().out


def test_an_unknown_part_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        gateway.main(["--only", "pages"])
    assert end.value.code == 2
    assert "beside" in capsys.readouterr().err
