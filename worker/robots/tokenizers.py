"""From a prompt (and for pi0.5 the state) to the model's text tokens.

The forms are those that the public checkpoints were trained with.
"""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

from worker.errors import CheckpointError

log = logging.getLogger(__name__)

Tokens = npt.NDArray[np.int64]


class PromptTokenizer:
    """PaliGemma's SentencePiece model with pi0's and pi0.5's prompt forms around it."""

    def __init__(self, path: Path, max_len: int) -> None:
        """Read the tokenizer at `path`; prompts are cut to `max_len` tokens.

        Raises `CheckpointError` where the file is missing or is no SentencePiece model.
        """
        self.max_len = max_len
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

    def encode(self, prompt: str, state: npt.NDArray[np.float64] | None = None) -> Tokens:
        """Ids of `prompt`, and of `state` where the model reads it as text; no padding.

        `state` is the normalised, unpadded state. Longer prompts are cut, with a warning.
        """
        text = prompt.strip().replace("_", " ").replace("\n", " ")
        if state is None:
            ids = self.encode_text(text, bos=True) + self.encode_text("\n")
        else:
            bins = " ".join(str(b) for b in state_bins(state))
            ids = self.encode_text(f"Task: {text}, State: {bins};\nAction: ", bos=True)
        return self.cut(ids, text)

    def encode_text(self, text: str, bos: bool = False) -> list[int]:
        """Ids of `text` as it is, after the beginning token if `bos`."""
        ids: list[int] = self._model.encode(text, add_bos=bos)
        return ids

    def decode(self, ids: Tokens) -> str:
        """The text of `ids`, each below `vocab_size`; control tokens have none."""
        return str(self._model.decode(ids.tolist()))

    def cut(self, ids: list[int], text: str) -> Tokens:
        """`ids`, or the first `max_len` of them with a warning that names the prompt's `text`."""
        if len(ids) > self.max_len:
            log.warning(
                "a prompt of %d tokens was cut to %d (model.max_token_len): %.60s",
                len(ids),
                self.max_len,
                text,
            )
        return np.asarray(ids[: self.max_len], dtype=np.int64)


def state_bins(state: npt.NDArray[np.float64]) -> list[int]:
    """Which of 256 equal bins over [-1, 1] each value lies in: 0 to 255, and -1 below them."""
    edges = np.linspace(-1.0, 1.0, 256 + 1)[:-1]
    return [int(b) for b in np.digitize(state, edges) - 1]
