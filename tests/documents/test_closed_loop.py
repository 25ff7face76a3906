"""`docs/robot_loop.md` shows what was measured, and what was measured supports what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.closed_loop.episodes import METHODS
from scripts.demo.__main__ import MODE
from tests.documents.closed_loop import (
    DOCUMENT,
    EXPERT,
    TINY,
    Row,
    render,
    rows_of,
    seam_ratio,
)

BEGIN, END = "<!-- closed loop: begin -->", "<!-- closed loop: end -->"

BOTH = pytest.mark.parametrize("result", [EXPERT, TINY], ids=["expert", "tiny"])


def steady(result: Path, method: str, most_ms: float) -> list[Row]:
    """The rows of a method over links of up to `most_ms` without jitter."""
    return [
        row
        for row in rows_of(result)
        if row["method"] == method
        and row["link"] == f"{row['delay_ms']:g} ms"
        and row["delay_ms"] <= most_ms
    ]


def test_the_document_shows_the_results_as_they_are() -> None:
    document = DOCUMENT.read_text()
    shown = render(document, EXPERT, TINY)
    assert shown == document, "run python -m tests.documents.closed_loop"


@BOTH
def test_every_method_was_measured_over_every_link(result: Path) -> None:
    rows = rows_of(result)
    links = {row["link"] for row in rows}
    assert {"0 ms", "100 ms", "200 ms", "400 ms", "200 ms, jitter", "Wi-Fi"} <= links
    assert len(rows) == len(links) * len(METHODS)
    assert {row["method"] for row in rows} == {method.name for method in METHODS}


@BOTH
def test_the_default_form_shows_no_seams_up_to_200_ms(result: Path) -> None:
    guided = steady(result, "rtc identity", 200)
    assert len(guided) >= 3
    assert max(map(seam_ratio, guided)) <= 1.2


@BOTH
def test_only_the_synchronous_robot_stops(result: Path) -> None:
    for row in rows_of(result):
        waits = row["method"] == "synchronous" and row["link"] != "0 ms"
        assert (row["starved_steps"] > 0) == waits, (row["link"], row["method"])


def test_the_demo_takes_the_form_that_is_smoothest_with_its_model() -> None:
    forms = [method.name for method in METHODS if method.name.startswith("rtc")]
    roughness = {f: max(map(seam_ratio, steady(TINY, f, 200))) for f in forms}
    assert f"rtc {MODE}" == min(roughness, key=lambda form: roughness[form])


def test_a_document_without_marks_is_refused() -> None:
    for text in ("nothing here", f"{BEGIN} only", f"only {END}"):
        with pytest.raises(ValueError, match="no marks"):
            render(text, EXPERT, TINY)
