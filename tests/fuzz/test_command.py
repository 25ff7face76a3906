"""The fuzzer's driver reads what libFuzzer says; the fuzzer itself is not needed here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzz

LOG = """INFO: seed corpus: files: 3
#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 60Mb
#4096\tpulse  cov: 99 ft: 300 corp: 25/3000b lim: 100 exec/s: 2000 rss: 61Mb
"""


def test_figures_so_far(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)
    expected = {"executions": 4096, "coverage": 99, "features": 300, "corpus": 25}
    assert fuzz._read(log) == expected
    log.write_text(LOG + "Done 5000 runs in 3 second(s)\n")
    assert fuzz._read(log) == {**expected, "executions": 5000}


def test_before_it_has_said_anything(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("INFO: Instrumenting client\n")
    assert fuzz._read(log)["executions"] == 0


def test_without_atheris_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert fuzz.main(["--minutes", "0.1"]) == 2
    assert "pip install -e '.[fuzz]'" in capsys.readouterr().err
