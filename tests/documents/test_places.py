"""The README's first table shows the results as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.documents.places import DOCUMENT, PLACES, RESULTS, render

BEGIN, END = "<!-- places: begin -->", "<!-- places: end -->"


def test_the_readme_shows_the_results_as_they_are() -> None:
    document = DOCUMENT.read_text()
    rendered = render(document, RESULTS / "transport.json", RESULTS / "lan-10hz.json")
    assert rendered == document, "run python -m tests.documents.places"


def test_each_place_has_its_own_cell(tmp_path: Path) -> None:
    cells = [
        {
            "peer": peer,
            "size": place.size,
            "rate_hz": place.rate_hz,
            "robots": 1,
            "pinned": True,
            "congestion": "cubic",
            "link": place.link,
            "p50_us": p50_us,
        }
        for number, place in enumerate(PLACES, 1)
        for peer, p50_us in ((place.peer, 100.0 * number), ("openpi", 1000.0))
    ]
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"cells": cells, "measured": "2026-01-01T", "machine": "M"}))
    rows = render(f"a\n{BEGIN}{END}\nb", result, result).splitlines()[4:-4]
    assert [row.split(" | ")[-1] for row in rows] == [
        f"{number / 10:.2f} |" for number in range(1, len(PLACES) + 1)
    ]


def test_a_cell_that_was_not_measured_is_named(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"cells": [], "measured": "", "machine": ""}))
    with pytest.raises(ValueError, match="no result for .*libero"):
        render(f"{BEGIN}{END}", result, result)
    with pytest.raises(ValueError, match="no marks"):
        render("nothing", RESULTS / "transport.json", RESULTS / "lan-10hz.json")
