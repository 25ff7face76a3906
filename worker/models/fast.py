"""pi0-FAST: one Gemma that reads images and prompt, then writes actions as text tokens.

After "FAST: Efficient Action Tokenization" (arXiv 2501.09747). The prefix sees itself both ways,
what is written sees all before it. Requests are decoded together: each row's prefix ends at the
same place of a cache of fixed size, so that one step's memory never moves or grows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.gemma import Rope, rope_at, rope_tables
from worker.models.paligemma import PaliGemma

MAX_WRITTEN = 256
"""Tokens in an answer at most, with its end token."""
END = 1
"""The text tokenizer's end token."""
BROKEN = -1
"""Written where the model's numbers were not finite; nothing follows."""

Write = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes a layer's number, new keys and new values; returns all keys and values to attend to."""


@dataclass
class Writing:
    """Several answers that are being written, one in each row. Its tensors are reused."""

    keys: Tensor
    """(layers, batch, kv heads, capacity, head dim); a row's prefix ends at `room` of capacity."""
    values: Tensor
    lengths: Tensor
    """int64 (batch,): tokens of each prefix."""
    written: Tensor
    """int64 (batch, MAX_WRITTEN): the answers, zero after their end."""
    latest: Tensor
    """int64 (batch,): what each row wrote last."""
    ended: Tensor
    """bool (batch,): rows that wrote their end."""
    count: Tensor
    """int64 (1,): tokens that each row wrote, those after its end included."""

    @property
    def room(self) -> int:
        """Tokens that a prefix may have."""
        return self.keys.shape[3] - MAX_WRITTEN

    def clear(self) -> None:
        """Forget all answers. Stale keys are masked, but they must be finite."""
        for tensor in vars(self).values():
            tensor.zero_()


class Pi0Fast(PaliGemma):
    """The model; its runner calls `step` until all rows have ended."""

    gap = 1
    """Positions that are left out between prefix and answer: openpi trained with one."""

    def blank(self, batch: int, room: int) -> Writing:
        """Space for `batch` answers to prefixes of at most `room` tokens."""
        vlm, device = self.config.vlm, self.embedding.device
        shape = (vlm.depth, batch, vlm.num_kv_heads, room + MAX_WRITTEN, vlm.head_dim)
        keys, values = (torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(2))
        lengths, latest = torch.zeros((2, batch), dtype=torch.int64, device=device).unbind()
        return Writing(
            keys,
            values,
            lengths,
            written=torch.zeros((batch, MAX_WRITTEN), dtype=torch.int64, device=device),
            latest=latest,
            ended=torch.zeros(batch, dtype=torch.bool, device=device),
            count=torch.zeros(1, dtype=torch.int64, device=device),
        )

    def read(self, images: Tensor, tokens: Tensor, writing: Writing, row: int) -> Tensor:
        """Put one request's prefix into `row`; returns its last token's output, (1, vlm width).

        `images`: uint8 (cameras, 224, 224, 3); `tokens`: int64 (length,). One request at a time: so
        long a sequence keeps any device busy, and nothing has to be padded.
        """
        return self.read_embedded(self.embed_prefix(images[None], tokens[None]), writing, row)

    def read_embedded(self, x: Tensor, writing: Writing, row: int) -> Tensor:
        """`read`, from the prefix's tokens on: `x` (1, length, vlm width).

        Raises:
            ValueError: there is no room for so many tokens.
        """
        length = x.shape[1]
        start, end = writing.room - length, writing.room
        if start < 0:
            raise ValueError(f"a prefix of {length} tokens does not fit into {writing.room}")
        writing.lengths[row] = length

        def write(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            writing.keys[layer, row, :, start:end] = keys[0]
            writing.values[layer, row, :, start:end] = values[0]
            return keys, values

        rope = rope_tables(0, length, self.config.vlm.head_dim, x.device)
        return self._through(x, rope, write, mask=None)

    def step(self, writing: Writing) -> None:
        """Each row reads the token that it wrote last, and writes one more."""
        slot = writing.room - 1 + writing.count
        positions = writing.lengths + writing.count - 1 + self.gap
        rope = rope_at(positions[:, None, None], self.config.vlm.head_dim)
        places = torch.arange(writing.keys.shape[3], device=slot.device)
        begun = places >= (writing.room - writing.lengths)[:, None]
        mask = (begun & (places <= slot))[:, None, None]

        def write(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            held = writing.keys[layer], writing.values[layer]
            return held[0].index_copy_(2, slot, keys), held[1].index_copy_(2, slot, values)

        x = self.embed_text(writing.latest)[:, None]
        self.write_best(self._through(x, rope, write, mask), writing)

    def write_best(self, outputs: Tensor, writing: Writing) -> None:
        """Append each row's likeliest token of `outputs` (batch, vlm width)."""
        # In this order of operands a CPU reads the embedding once for all rows, not once for each.
        best, tokens = (self.embedding @ outputs.T).max(dim=0)
        finite = best.isfinite()
        shown = tokens.where(finite, BROKEN).masked_fill(writing.ended, 0)
        writing.written.index_copy_(1, writing.count, shown[:, None])
        writing.ended |= (tokens == END) | ~finite
        writing.latest.copy_(tokens)
        writing.count += 1

    def _through(self, x: Tensor, rope: Rope, write: Write, mask: Tensor | None) -> Tensor:
        """The last token's output, (batch, width), of `x` (batch, tokens, width)."""
        for layer, block in enumerate(self.vlm.blocks):
            queries, *new = block.project(x, rope)
            keys, values = write(layer, *new)
            if layer + 1 == self.config.vlm.depth:
                # The outputs of the other tokens are not used.
                x, queries = x[:, -1:], queries[:, :, -1:]
            x = block(x, queries, keys, values, mask=mask)
        out: Tensor = self.vlm.norm(x)[:, -1]
        return out
