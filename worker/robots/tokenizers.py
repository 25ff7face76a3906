"""From a prompt (and for pi0.5 and pi0-FAST the state) to the model's text tokens.

The forms are those that checkpoints were trained with: openpi's, and LeRobot's where it differs.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

from client.errors import BadObservation
from worker.config import Architecture
from worker.errors import CheckpointError

logger = logging.getLogger(__name__)

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PromptForm:
    """How a prompt is made of a robot's text and, where the model reads it, of its state."""

    clean: Callable[[str], str]
    """What is done to the text first."""
    template: str
    """`{text}`, and `{state}` as numbers of bins, with what the model expects around them."""
    tail: str = ""
    """Text that is encoded by itself and comes last."""
    ends_with_bos: bool = False
    """Whether one more beginning token follows."""
    state_dim: int = 0
    """Shorter states are padded with zeros to this length before they are put into bins."""

    @property
    def holds_state(self) -> bool:
        """Whether the prompt holds the state."""
        return "{state}" in self.template


def _one_line(text: str) -> str:
    return text.strip().replace("_", " ").replace("\n", " ")


def _lowered(text: str) -> str:
    return text.lower().strip().replace("_", " ")


def _without_newline(text: str) -> str:
    return text.removesuffix("\n")


PI0 = PromptForm(_one_line, "{text}", tail="\n")
PI05 = PromptForm(_one_line, "Task: {text}, State: {state};\nAction: ")
PI0_FAST = PromptForm(_lowered, "Task: {text}, State: {state};\n")


def lerobot_form(architecture: Architecture, state_dim: int) -> PromptForm:
    """LeRobot's form for its own checkpoints, with the state padded to `state_dim` numbers."""
    if architecture is Architecture.pi0:
        return PromptForm(_without_newline, "{text}\n")
    if architecture is Architecture.pi05:
        return replace(PI05, state_dim=state_dim)
    return replace(PI0_FAST, clean=_one_line, state_dim=state_dim, ends_with_bos=True)


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it."""

    tokens: Tokens
    """int64 (length,)."""
    shortened_to: str | None
    """What is left of the robot's text, if there was no room for all of it."""


class PromptTokenizer:
    """PaliGemma's SentencePiece model, with the prompt's form around it."""

    def __init__(self, path: Path, max_len: int, form: PromptForm = PI0) -> None:
        """Read the tokenizer at `path`; texts are shortened until `max_len` tokens are enough.

        Raises:
            CheckpointError: the file is missing or is no SentencePiece model.
        """
        self.max_len, self.form = max_len, form
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(path.read_bytes())
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is no SentencePiece tokenizer ({error}); tokenizer= names another file"
            ) from error

    @property
    def vocab_size(self) -> int:
        """How many ids the tokenizer knows."""
        return int(self._model.vocab_size())

    def encode(self, prompt: str, state: npt.NDArray[np.float64] | None = None) -> Prompt:
        """The tokens of `prompt`, and of the normalised `state` where the form holds it.

        A prompt that is too long is shortened at the end of its text, with a warning. It keeps what
        stands around the text: the state, and the words after which the model's answer begins.

        Raises:
            BadObservation: there is no room even without the text.
            ValueError: the form holds the state, and there is none.
        """
        text, bins = self.form.clean(prompt), ""
        if self.form.holds_state:
            if state is None:
                raise ValueError("prompts of this form hold the state")
            padding = max(0, self.form.state_dim - len(state))
            bins = " ".join(str(b) for b in state_bins(np.pad(state, (0, padding))))
        ids, shorter = self._encode(text, bins), text
        pieces = self.encode_text(text) if len(ids) > self.max_len else []
        kept = len(pieces)
        while len(ids) > self.max_len and kept > 0:
            kept = max(0, kept - (len(ids) - self.max_len))
            shorter = self.decode(np.asarray(pieces[:kept], np.int64)).rstrip()
            ids = self._encode(shorter, bins)
        if len(ids) > self.max_len:
            raise BadObservation(
                f"prompt: without any text it takes {len(ids)} tokens, for the state and what"
                f" stands around it, and the model reads {self.max_len} (model.max_token_len)"
            )
        if shorter != text:
            logger.warning(
                "a prompt was shortened to %d tokens (model.max_token_len): %.60s",
                self.max_len,
                text,
            )
        if self.form.ends_with_bos:
            ids.append(self._model.bos_id())
        return Prompt(np.asarray(ids, np.int64), None if shorter == text else shorter)

    def _encode(self, text: str, bins: str) -> list[int]:
        whole = self.form.template.format(text=text, state=bins)
        return self.encode_text(whole, bos=True) + self.encode_text(self.form.tail)

    def encode_text(self, text: str, bos: bool = False) -> list[int]:
        """Ids of `text` as it is, after the beginning token if `bos`."""
        ids: list[int] = self._model.encode(text, add_bos=bos)
        return ids

    def decode(self, ids: Tokens) -> str:
        """The text of `ids`, each below `vocab_size`; control tokens have none."""
        return str(self._model.decode(ids.tolist()))


def state_bins(state: npt.NDArray[np.float64]) -> list[int]:
    """Which of 256 equal bins over [-1, 1] each value lies in: 0 to 255, and -1 below them."""
    edges = np.linspace(-1.0, 1.0, 256 + 1)[:-1]
    return [int(b) for b in np.digitize(state, edges) - 1]
