"""Prompt forms; exact agreement with the public system is tested with the golden cases."""

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.golden import TOKENIZER
from worker.errors import CheckpointError
from worker.robots.tokenizers import PromptTokenizer, state_bins

BOS = 2


def test_prompts_are_cleaned_before_they_are_encoded() -> None:
    tokenizer = PromptTokenizer(TOKENIZER, 48)
    clean = tokenizer.encode("fold the towel")
    assert clean[0] == BOS
    assert tokenizer.encode("  fold_the\ntowel \n").tolist() == clean.tolist()


def test_the_state_changes_the_prompt() -> None:
    tokenizer = PromptTokenizer(TOKENIZER, 200)
    low, high = (tokenizer.encode("fold", np.full(3, v)) for v in (-0.5, 0.5))
    assert low.tolist() != high.tolist()


def test_bins_cover_the_range_and_beyond() -> None:
    assert state_bins(np.array([-1.5, -1.0, 0.0, 0.999, 1.0, 9.0])) == [-1, 0, 128, 255, 255, 255]


def test_a_long_prompt_is_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tokens = PromptTokenizer(TOKENIZER, 5).encode("fold the towel " * 20)
    assert len(tokens) == 5
    assert "model.max_token_len" in caplog.text


@pytest.mark.parametrize("content", [b"", b"not a tokenizer", TOKENIZER.read_bytes()[:5000]])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"t\.model is no SentencePiece tokenizer"):
        PromptTokenizer(tmp_path / "t.model", 48)
