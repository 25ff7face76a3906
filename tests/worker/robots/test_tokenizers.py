"""Prompt forms; exact agreement with the public system is tested with the golden cases."""

import logging
from pathlib import Path

import numpy as np
import pytest

from client.errors import BadObservation
from tests.golden import TOKENIZER
from worker.config import Architecture
from worker.errors import CheckpointError
from worker.robots.tokenizers import (
    PI0,
    PI0_FAST,
    PI05,
    Prompt,
    PromptForm,
    PromptTokenizer,
    lerobot_form,
    state_bins,
)

BOS = 2
STATE = np.array([-2.0, -1.0, 0.5])


def text_of(tokenizer: PromptTokenizer, prompt: Prompt) -> str:
    """What the model reads, without its beginning token."""
    return tokenizer.decode(prompt.tokens)


def test_prompts_are_cleaned_before_they_are_encoded() -> None:
    tokenizer = PromptTokenizer(TOKENIZER, 48)
    clean = tokenizer.encode("fold the towel").tokens
    assert clean[0] == BOS
    assert tokenizer.encode("  fold_the\ntowel \n").tokens.tolist() == clean.tolist()
    assert tokenizer.encode("fold the towel", STATE).tokens.tolist() == clean.tolist()


def test_the_state_stands_in_the_prompt() -> None:
    tokenizer = PromptTokenizer(TOKENIZER, 200, PI05)
    prompt = tokenizer.encode(" Fold_it\n", np.array([-2.0, -1.0, 0.5]))
    assert text_of(tokenizer, prompt) == "Task: Fold it, State: -1 0 192;\nAction: "
    with pytest.raises(ValueError, match="hold the state"):
        tokenizer.encode("fold")


@pytest.mark.parametrize(
    ("architecture", "reads"),
    [
        (Architecture.pi0, " Fold_it\n"),
        (Architecture.pi05, "Task: Fold it, State: -1 0 192 128 128;\nAction: "),
        (Architecture.pi0_fast, "Task: Fold it, State: -1 0 192 128 128;\n"),
    ],
)
@pytest.mark.parametrize("newline", ["", "\n"])
def test_lerobots_forms_pad_the_state(architecture: Architecture, reads: str, newline: str) -> None:
    tokenizer = PromptTokenizer(TOKENIZER, 200, lerobot_form(architecture, 5))
    prompt = tokenizer.encode(f" Fold_it{newline}", np.array([-2.0, -1.0, 0.5]))
    assert text_of(tokenizer, prompt) == reads
    ends = int(architecture is Architecture.pi0_fast)
    assert (prompt.tokens[0], prompt.tokens.tolist().count(BOS)) == (BOS, 1 + ends)
    assert (prompt.tokens[-1] == BOS) == bool(ends)


def test_bins_cover_the_range_and_beyond() -> None:
    assert state_bins(np.array([-1.5, -1.0, 0.0, 0.999, 1.0, 9.0])) == [-1, 0, 128, 255, 255, 255]


FORMS = [
    (PI0, "", "\n"),
    (PI05, "Task: ", ", State: -1 0 192;\nAction: "),
    (PI0_FAST, "Task: ", ", State: -1 0 192;\n"),
    (lerobot_form(Architecture.pi0, 32), "", "\n"),
    (lerobot_form(Architecture.pi05, 4), "Task: ", ", State: -1 0 192 128;\nAction: "),
    (lerobot_form(Architecture.pi0_fast, 4), "Task: ", ", State: -1 0 192 128;\n"),
]


@pytest.mark.parametrize(("form", "before", "after"), FORMS)
def test_a_long_text_is_shortened_and_nothing_else(
    form: PromptForm, before: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = "fold the towel and put it into the box " * 20
    tokenizer = PromptTokenizer(TOKENIZER, 60, form)
    with caplog.at_level(logging.WARNING):
        prompt = tokenizer.encode(text, np.array([-2.0, -1.0, 0.5]))
    assert 50 <= len(prompt.tokens) <= 60 + form.ends_with_bos
    assert prompt.shortened_to
    assert text.startswith(prompt.shortened_to)
    assert text_of(tokenizer, prompt) == before + prompt.shortened_to + after
    assert "model.max_token_len" in caplog.text


@pytest.mark.parametrize(("form", "before", "after"), FORMS)
def test_a_text_that_just_fits_is_left_alone(form: PromptForm, before: str, after: str) -> None:
    needed = len(PromptTokenizer(TOKENIZER, 500, form).encode("fold the towel", STATE).tokens)
    room = needed - form.ends_with_bos
    assert (
        PromptTokenizer(TOKENIZER, room, form).encode("fold the towel", STATE).shortened_to is None
    )
    shorter = PromptTokenizer(TOKENIZER, room - 1, form).encode("fold the towel", STATE)
    assert shorter.shortened_to is not None
    assert len(shorter.tokens) < needed


def test_a_state_without_room_is_an_error_that_says_so() -> None:
    tokenizer = PromptTokenizer(TOKENIZER, 60, PI05)
    with pytest.raises(BadObservation, match=r"takes \d+ tokens.*model\.max_token_len"):
        tokenizer.encode("fold the towel", np.zeros(32))


@pytest.mark.parametrize("content", [b"", b"not a tokenizer", TOKENIZER.read_bytes()[:5000]])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"t\.model is no SentencePiece tokenizer"):
        PromptTokenizer(tmp_path / "t.model", 48)
