"""`docs/measurements.md` shows what the results say, and says where nothing was run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.figures import Figure, save
from tests.chaos.__main__ import Plan, Report
from tests.chaos.outcomes import summarize
from tests.documents.measured import DOCUMENT, RESULTS, render

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

EMPTY = f"before\n{BEGIN}\nold\n{END}\nafter\n"


def test_the_document_shows_the_results_as_they_are() -> None:
    document = DOCUMENT.read_text()
    assert render(document, RESULTS) == document, "run python -m tests.documents.measured"


def test_what_was_not_run_is_said(tmp_path: Path) -> None:
    rendered = render(EMPTY, tmp_path)
    assert rendered.count("Not run yet.") == 7
    assert "old" not in rendered
    assert rendered.startswith("before\n")
    assert rendered.endswith("\nafter\n")
    assert render(rendered, tmp_path) == rendered


def test_each_part_of_the_faults_is_shown_with_its_bars(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    save(path, "worker", [Figure("killed idle", 60.0, "ms", 50.0), Figure("  p50", 9.0, "ms")])
    save(path, "broker", [Figure("lost", 0, "", 0)])
    save(path, "worker", [Figure("killed idle", 16.2, "ms", 50.0), Figure("  p50", 9.0, "ms")])
    rendered = render(EMPTY, tmp_path)
    assert "| killed idle | 16.2 ms | 50 ms | yes |" in rendered
    assert "| &emsp;p50 | 9 ms |  |  |" in rendered
    assert "| lost | 0 | 0 | yes |" in rendered
    assert "**no**" not in rendered


def test_a_bar_that_was_missed_is_seen(tmp_path: Path) -> None:
    save(tmp_path / "faults.json", "peers", [Figure("p50, times", 1.6, "", 1.5)])
    assert "| p50, times | 1.6 | 1.5 | **no** |" in render(EMPTY, tmp_path)


def test_figures_without_a_bar_are_left_out_and_both_kinds_of_bar_are_told(tmp_path: Path) -> None:
    figures = [
        Figure("p50", 0.87, "", 0.9),
        Figure("answers", 0.87, "", 0.9, at_least=True),
        Figure("others", 1.0),
    ]
    content = {"figures": [asdict(figure) for figure in figures]}
    (tmp_path / "transport.json").write_text(json.dumps(content))
    rendered = render(EMPTY, tmp_path)
    assert "| p50 | 0.87 | at most 0.9 | yes |" in rendered
    assert "| answers | 0.87 | at least 0.9 | **no** |" in rendered
    assert "others" not in rendered


def test_chaos_is_told_in_one_sentence(tmp_path: Path) -> None:
    nothing = summarize([], 0, lambda outcome: False, lambda start, end: 0.0)
    report = Report(Plan(), 12.0, nothing, {"kill worker": 3, "cut": 1}, 4, nothing)
    (tmp_path / "chaos.json").write_text(json.dumps(asdict(report)))
    rendered = render(EMPTY, tmp_path)
    assert "under 4 faults (kill worker 3, cut 1)" in rendered
    assert "wrong 0, lost 0, late 0" in rendered


def test_a_document_without_marks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no marks"):
        render("nothing here", tmp_path)


def test_the_bar_of_scheduling_is_told_of_its_own_row_alone(tmp_path: Path) -> None:
    rows = [
        {"robots": robots, "workers": workers, "median_us": 1000.0 / robots}
        for robots, workers in ((1, 100), (1000, 100))
    ]
    (tmp_path / "scheduling.json").write_text(json.dumps({"rows": rows, "bar_us": 60.0}))
    rendered = render(EMPTY, tmp_path)
    assert "At 1,000 robots and 100 workers at most 60 µs." in rendered
    assert rendered.index("| 1 | 100 | 1000 |") < rendered.index("At 1,000 robots")
