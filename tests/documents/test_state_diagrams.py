"""The diagrams in the documentation are those of the tables."""

from __future__ import annotations

import pytest

from tests.documents.state_diagrams import DOCUMENT, render


def test_the_document_shows_the_tables_as_they_are() -> None:
    document = DOCUMENT.read_text()
    assert render(document) == document, "run python -m tests.documents.state_diagrams"


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no marks for .worker states"):
        render("nothing here")
