"""The way from the text tokens that pi0-FAST writes back to actions.

After "FAST: Efficient Action Tokenization" (arXiv 2501.09747): a chunk's discrete cosine transform
over time, rounded, written as characters, compressed by byte pair encoding.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.fft
import tokenizers

from worker.errors import CheckpointError
from worker.robots.tokenizers import PromptTokenizer, Tokens

Array = npt.NDArray[np.float64]

FILES = ("tokenizer.json", "processor_config.json")
WAY_ON = (
    f"fast_tokenizer=DIR names a folder with {' and '.join(FILES)} (the public one is"
    " huggingface.co/physical-intelligence/fast; copy it to this machine)"
)
# The last text tokens (PaliGemma's segmentation tokens) never stand for actions.
RESERVED = 128
BEGIN, END = "Action: ", "|"


class ActionTokenizer:
    """An action tokenizer in the public format: a folder with `FILES`."""

    def __init__(self, folder: Path) -> None:
        """Read `folder`.

        Raises:
            CheckpointError: it is missing, damaged or another program's.
        """
        self.folder = folder
        texts = [_read(folder, name) for name in FILES]
        try:
            self._bpe = tokenizers.Tokenizer.from_str(texts[0])
        except Exception as error:  # the package raises nothing narrower
            raise _foreign(folder, f"{FILES[0]} is no tokenizer ({error})") from error
        self._scale, self._min_token = _processor(folder, texts[1], self.vocab_size)

    @property
    def vocab_size(self) -> int:
        """How many ids the tokenizer knows."""
        return int(self._bpe.get_vocab_size())

    def decode(self, tokens: Sequence[int], horizon: int, dim: int) -> Array | None:
        """The normalised actions (horizon, dim) of `tokens`; None if they are not such a chunk.

        Tokens beyond the vocabulary are skipped.
        """
        if any(token < 0 for token in tokens):
            return None
        text = self._bpe.decode(list(tokens), skip_special_tokens=False)
        if len(text) != horizon * dim:
            return None
        coefficients = np.array([ord(c) for c in text], np.float64) + self._min_token
        scaled = coefficients.reshape(horizon, dim) / self._scale
        actions: Array = scipy.fft.idct(scaled, axis=0, norm="ortho")
        return actions


@dataclass(frozen=True)
class FastTokenizer:
    """Both of pi0-FAST's tokenizers, for chunks of one shape."""

    text: PromptTokenizer
    actions: ActionTokenizer
    horizon: int
    dim: int

    def __post_init__(self) -> None:
        """Make sure that the text tokenizer has room for all action tokens.

        Raises:
            CheckpointError: it has too little.
        """
        room = self.text.vocab_size - RESERVED
        if self.actions.vocab_size > room:
            raise CheckpointError(
                f"{self.actions.folder} has {self.actions.vocab_size} action tokens, more than the"
                f" {room} that the text tokenizer has room for: fast_tokenizer= or tokenizer= is"
                " another model's"
            )

    def chunk(self, ids: Tokens) -> Array | None:
        """Normalised actions, float64 (horizon, dim), of what the model wrote.

        None if that is not a chunk: openpi then answers zeros, which a robot cannot tell from
        actions. NaN if an id is negative, as it is when the model's numbers were not finite.
        """
        if (ids < 0).any():
            return np.full((self.horizon, self.dim), np.nan)
        tokens = self._action_tokens(ids)
        return None if tokens is None else self.actions.decode(tokens, self.horizon, self.dim)

    def _action_tokens(self, ids: Tokens) -> list[int] | None:
        _, begin, after = self.text.decode(ids).partition(BEGIN)
        if not begin:
            return None
        # openpi splits at each of them.
        written = after.partition(BEGIN)[0].partition(END)[0].strip()
        # Action tokens are counted down from the text tokens' end.
        first = self.text.vocab_size - 1 - RESERVED
        return [first - id for id in self.text.encode_text(written)]


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise _foreign(folder, f"{name} cannot be read: {reason}") from error


def _processor(folder: Path, text: str, known: int) -> tuple[float, int]:
    """The scale of the coefficients, and the smallest one; `known`: ids of the other file."""
    try:
        config = json.loads(text)
        scale, min_token = float(config["scale"]), int(config["min_token"])
        vocab_size = int(config.get("vocab_size", known))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _foreign(folder, f"{FILES[1]} has no usable scale and min_token") from error
    if not 0 < scale < np.inf or abs(min_token) > sys.maxunicode:
        raise _foreign(folder, f"{FILES[1]} has scale {scale} and min_token {min_token}")
    if known > vocab_size:
        raise _foreign(folder, f"{FILES[0]} has {known} tokens, {FILES[1]} allows {vocab_size}")
    return scale, min_token


def _foreign(folder: Path, how: str) -> CheckpointError:
    return CheckpointError(f"{folder} is no action tokenizer: {how}; {WAY_ON}")
