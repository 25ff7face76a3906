"""pi0-FAST as a policy: like pi0, but its model writes tokens that stand for actions."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.config import Architecture
from worker.errors import CheckpointError
from worker.policies.chunk_policy import ChunkPolicy, Raw
from worker.robots.fast_tokenizer import (
    FILES,
    WAY_ON,
    ActionTokenizer,
    FastTokenizer,
)
from worker.robots.observations import Array
from worker.robots.tokenizers import PromptTokenizer

if TYPE_CHECKING:
    from worker.runtime.fast_runner import FastRunner

FOLDER_NAME = "fast_tokenizer"
PUBLIC = "gs://openpi-assets/"


class Pi0FastPolicy(ChunkPolicy["FastRunner"]):
    """Greedy, so one observation has one answer, whatever the seed."""

    architectures = (Architecture.pi0_fast,)

    def __init__(self, *, fast_tokenizer: str | None = None, **settings: Any) -> None:
        """`fast_tokenizer`: a folder; None: the checkpoint's own. The rest as `ChunkPolicy`.

        Raises:
            CheckpointError: there is no such tokenizer, or files are missing or do not fit.
        """
        # Before a download of gigabytes, not after it.
        if fast_tokenizer is not None:
            ActionTokenizer(Path(fast_tokenizer).expanduser())
        elif str(settings.get("checkpoint")).startswith(PUBLIC):
            raise CheckpointError(f"the public checkpoints have no {FOLDER_NAME}/: {WAY_ON}")
        self._fast_tokenizer = fast_tokenizer
        super().__init__(**settings)

    def warm_up(self) -> float:
        """Also prepare for every batch that the worker may form."""
        for batch in range(1, self._runtime.slots + 1):
            self.runner.prepare(batch)
        return super().warm_up()

    def _make_runner(self) -> "FastRunner":
        from worker.runtime.fast_runner import FastRunner

        return FastRunner(
            self._model,
            self._files.weights,
            self._device,
            self._dtype,
            self._runtime,
            cameras=len(self.transforms.cameras),
            is_lerobot=self._files.lerobot is not None,
        )

    def _make_tokenizer(self) -> tuple[PromptTokenizer, Callable[[Raw], Array | None] | None]:
        text, _ = super()._make_tokenizer()
        if text.vocab_size != self._model.vocab_size:
            raise CheckpointError(
                f"{self._files.tokenizer} has {text.vocab_size} tokens, the model"
                f" {self._model.vocab_size}: action tokens are counted from the last, so tokenizer="
                " or model.vocab_size= is wrong"
            )
        actions = ActionTokenizer(self._tokenizer_folder())
        model = self._model
        self.tokenizer = FastTokenizer(text, actions, model.action_horizon, model.action_dim)
        return text, self.tokenizer.chunk

    def _tokenizer_folder(self) -> Path:
        if self._fast_tokenizer is not None:
            return Path(self._fast_tokenizer).expanduser()
        beside = None if self._files.weights is None else self._files.weights.parent / FOLDER_NAME
        if beside is None or not beside.is_dir():
            raise CheckpointError(f"the checkpoint has no {FOLDER_NAME}/: {WAY_ON}")
        return beside

    def _deciding_settings(self) -> dict[str, Any]:
        folder = self._tokenizer_folder()
        digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]
        return {**super()._deciding_settings(), "fast_tokenizer": digests}
