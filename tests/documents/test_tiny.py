"""The tiny model's page shows the evaluation as it is, and only of the weights that ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.tiny.trial import CONDITIONS
from tests.documents.tiny import DOCUMENT, RESULT, TOLD, render

MARKS = "<!-- successes: begin -->\n<!-- successes: end -->"


def test_the_page_shows_the_result_as_it_is() -> None:
    document = DOCUMENT.read_text()
    assert render(document, RESULT) == document, "run python -m tests.documents.tiny"


def test_every_condition_but_the_usual_precision_has_words() -> None:
    assert set(TOLD) == set(CONDITIONS) - {"float32"}


def test_a_task_that_was_not_run_has_an_empty_place(tmp_path: Path) -> None:
    result = tmp_path / "tiny.json"
    content = json.loads(RESULT.read_text())
    content["rows"] = [row for row in content["rows"] if row["task"] == "insertion"][:1]
    result.write_text(json.dumps(content))
    *_, row, _ = render(MARKS, result).splitlines()
    told, handed_over, let_go, inserted = row.strip("| ").split(" | ")
    assert (told in TOLD.values(), handed_over, let_go) == (True, "", "")
    assert " of " in inserted


def test_other_weights_are_refused(tmp_path: Path) -> None:
    result = tmp_path / "tiny.json"
    result.write_text(json.dumps({**json.loads(RESULT.read_text()), "weights": "others"}))
    with pytest.raises(ValueError, match="other weights"):
        render(MARKS, result)
