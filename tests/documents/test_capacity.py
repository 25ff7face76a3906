"""`docs/capacity.md` shows what the results say, and its calculation is the program's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.capacity.plan import Plan
from benchmarks.figures import Figure, save
from tests.documents.capacity import DOCUMENT, RESULTS, render

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

EMPTY = f"before\n{BEGIN}\nold\n{END}\nafter\n"


def test_the_document_shows_the_results_as_they_are() -> None:
    document = DOCUMENT.read_text()
    assert render(document, RESULTS) == document, "run python -m tests.documents.capacity"


def test_what_was_not_run_is_said(tmp_path: Path) -> None:
    rendered = render(EMPTY, tmp_path)
    assert rendered.count("Not run yet.") == 4
    assert "old" not in rendered
    assert render(rendered, tmp_path) == rendered


def test_a_busy_machine_and_a_missed_bar_are_seen(tmp_path: Path) -> None:
    figures = [Figure("8 workers, of linear", 0.9, "", 0.95, at_least=True)]
    save(tmp_path / "load.json", "scaling", figures, {"busy": True, "others_cores": 1.5})
    rendered = render(EMPTY, tmp_path)
    assert "| 8 workers, of linear | 0.9 | at least 0.95 | **no** |" in rendered
    assert "not to be trusted: other programs kept 1.5 cores busy" in rendered


def test_a_document_without_marks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no marks"):
        render("nothing here", tmp_path)


def test_the_examples_of_the_calculation_are_right() -> None:
    text = DOCUMENT.read_text()
    robots = [Plan(), Plan(15.0, 15, 8), Plan(10.0, 10, 5)]

    def row(start: str) -> list[str]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
        return [cell.strip() for cell in line.strip("|").split("|")][2:]

    assert row("asks") == [f"{robot.asks_per_s:.1f}" for robot in robots]
    assert row("can use") == [f"{robot.deadline_s * 1e3:.0f} ms" for robot in robots]
    assert row("may wait") == [f"{robot.left_s * 1e3:.0f} ms" for robot in robots]
    assert int(row("a GPU")[0].split(",")[0]) == Plan().per_gpu()
    link = re.findall(r"\d+", row("a link")[0])
    assert int(link[0]) == Plan().per_link()
    assert int(link[-1]) == round(Plan(observation=2 * 31_000 + 4_000).per_link(), -2)
