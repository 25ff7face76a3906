"""`docs/image_codecs.md` shows what was measured, and what was measured supports what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.codecs import CODECS
from client.image_codecs import FULL_CHROMA, HALF_CHROMA, encode_jpeg
from tests.documents.codecs import DOCUMENT, RESULT, render

BEGIN, END = "<!-- codecs: begin -->", "<!-- codecs: end -->"


def measured(part: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text())[part]
    return rows


def test_the_document_shows_the_results_as_they_are() -> None:
    document = DOCUMENT.read_text()
    assert render(document, RESULT) == document, "run python -m tests.documents.codecs"


def test_every_codec_is_in_both_tables() -> None:
    names = {codec.name for codec in CODECS}
    assert names < {row["codec"] for row in measured("actions")}
    assert names < {row["codec"] for row in measured("costs")}


def test_png_changes_no_action_of_any_model() -> None:
    png = [row for row in measured("actions") if row["codec"] == "PNG"]
    assert len(png) >= 6
    assert all(row["exact"] == row["observations"] and row["mean"] == 0.0 for row in png)


def test_full_chroma_is_what_the_table_recommends() -> None:
    by_codec: dict[tuple[str, str], float] = {}
    for row in measured("actions"):
        by_codec[row["model"], row["codec"]] = row["mean"]
    models = {model for model, _ in by_codec}
    for model in models - {"pi0_fast_droid"}:  # whose tokens no codec changed
        assert by_codec[model, "JPEG 75, 4:4:4"] < by_codec[model, "JPEG 98, 4:2:0"]


def test_the_client_uses_what_the_table_recommends() -> None:
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert encode_jpeg(pixels, 95) == encode_jpeg(pixels, 95, FULL_CHROMA)
    assert encode_jpeg(pixels, 95) != encode_jpeg(pixels, 95, HALF_CHROMA)


def test_a_document_without_marks_is_refused(tmp_path: Path) -> None:
    for text in ("nothing here", f"{BEGIN} only", f"only {END}"):
        with pytest.raises(ValueError, match="no marks"):
            render(text, RESULT)
