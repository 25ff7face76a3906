"""Gemma, used twice: wide for images and text, narrow for state and actions.

After "Gemma" (arXiv 2403.08295). The two share no weights, but the narrow one's queries attend to
the wide one's keys and values. pi0.5's norms are adaptive: they come from the time of the flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.config import ExpertConfig
from worker.models.attention import attend

ROPE_BASE = 10000.0

Rope = tuple[Tensor, Tensor]
"""Cosines and sines of some positions: see `rope_at`."""
Modulation = tuple[Tensor, Tensor, Tensor]
"""1 + scale and shift of an adaptive norm, float32, and gate, in the residual sum's dtype; each
broadcastable to (batch, tokens, width), made once for each flow step."""


@dataclass
class Cache:
    """Keys and values of all layers, each (batch, kv heads, tokens, head dim)."""

    keys: list[Tensor]
    values: list[Tensor]
    valid: Tensor | None = None
    """bool (batch, tokens), False for padding, which no position counts; None: there is none."""

    @property
    def length(self) -> int:
        """Tokens held, with padding."""
        return self.keys[0].shape[2]


class RMSNorm(nn.Module):
    """`x / rms(x) * (1 + scale)` in float32; adaptive ones get scale and shift from outside."""

    def __init__(self, width: int, adaptive: bool) -> None:
        super().__init__()
        self.weight = None if adaptive else nn.Parameter(torch.empty(width))
        self.dense = nn.Linear(width, 3 * width) if adaptive else None

    def modulation(self, cond: Tensor, dtype: torch.dtype) -> Modulation:
        """Scale, shift and gate of an adaptive norm for `cond` (..., width); see `Modulation`.

        Raises:
            ValueError: this norm is not adaptive.
        """
        if self.dense is None:
            raise ValueError("this norm is not adaptive")
        scale, shift, gate = self.dense(cond).chunk(3, dim=-1)
        return 1.0 + scale, shift.contiguous(), gate.to(dtype).contiguous()

    def forward(self, x: Tensor, modulation: Modulation | None = None) -> Tensor:
        """`x` and the result: (batch, tokens, width), in `x`'s dtype."""
        if modulation is None and self.weight is None:
            # The scale is part of the weights behind it: see `worker.runtime.fusing`.
            return F.rms_norm(x, x.shape[-1:], eps=1e-6)
        wide = F.rms_norm(x.float(), x.shape[-1:], eps=1e-6)
        if modulation is not None:
            factor, shift, _ = modulation
            wide = torch.addcmul(shift, wide, factor)
        elif self.weight is not None:
            wide = wide * (1.0 + self.weight.float())
        return wide.to(x.dtype)


class Attention(nn.Module):
    """Attention whose few key and value heads serve many query heads."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        self.config = config
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.width, queries, bias=False)
        self.k_proj = nn.Linear(config.width, keys, bias=False)
        self.v_proj = nn.Linear(config.width, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.width, bias=False)

    def project(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, of `x` (batch, tokens, width).

        Each (batch, heads, tokens, head dim); keys and values have the key heads.
        """
        queries = rotate(heads(self.q_proj(x), self.config.head_dim), rope)
        return queries, *self.keys_values(x, rope)

    def keys_values(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """The last two of `project`."""
        keys, values = (heads(proj(x), self.config.head_dim) for proj in (self.k_proj, self.v_proj))
        return rotate(keys, rope), values

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Attend to `keys` and `values`; returns (batch, tokens, width). `mask` as in `attend`."""
        mixed = attend(queries, keys, values, mask)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class Mlp(nn.Module):
    """Gated MLP with the tanh form of GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` and the result: (batch, tokens, width)."""
        gate = F.gelu(self.gate_proj(x), approximate="tanh")
        out: Tensor = self.down_proj(gate * self.up_proj(x))
        return out


class Block(nn.Module):
    """One layer. Its two norms are plain (prefix, pi0's expert) or adaptive (pi0.5's)."""

    def __init__(self, config: ExpertConfig, adaptive: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, adaptive)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, adaptive)
        self.mlp = Mlp(config.width, config.mlp_dim)

    def project(
        self, x: Tensor, rope: Rope, modulation: Modulation | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of `x` (batch, tokens, width): see `Attention.project`."""
        return self.self_attn.project(self.input_layernorm(x, modulation), rope)

    def keys_values(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """The last two of `project`."""
        return self.self_attn.keys_values(self.input_layernorm(x), rope)

    def forward(
        self,
        x: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        modulations: Sequence[Modulation | None] = (None, None),
        mask: Tensor | None = None,
    ) -> Tensor:
        """`x` (batch, tokens, width) through the layer; `queries` are those of `project(x)`.

        `keys`, `values`, `mask`: all that the tokens may see, as `attend` takes them.
        """
        attention, mlp = modulations
        x = x + _gated(self.self_attn(queries, keys, values, mask), attention)
        return x + _gated(self.mlp(self.post_attention_layernorm(x, mlp)), mlp)


class Gemma(nn.Module):
    """A stack of blocks; embeddings and heads belong to its owner."""

    def __init__(self, config: ExpertConfig, adaptive: bool = False) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Block(config, adaptive) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, adaptive)

    @property
    def blocks(self) -> list[Block]:
        """The layers, with their type."""
        return [cast(Block, layer) for layer in self.layers]

    def modulations(self, cond: Tensor, dtype: torch.dtype) -> list[Modulation]:
        """All adaptive norms' parts for `cond`: two for each layer, then the final one's."""
        norms = [n for b in self.blocks for n in (b.input_layernorm, b.post_attention_layernorm)]
        return [norm.modulation(cond, dtype) for norm in (*norms, self.norm)]

    def extend(self, x: Tensor, past: Cache | None = None, valid: Tensor | None = None) -> Cache:
        """Keys and values of `past` and then of `x` (batch, tokens, width).

        The tokens of `x` see `past` and each other; `valid`: bool (batch, tokens), False for
        padding at its end, None where there is none. Of the last layer only keys and values are
        computed, as nothing else of it is used.
        """
        rope, mask = self._rope(x, past), _seen(x, past, valid)
        cache = Cache([], [], mask)
        for index, block in enumerate(self.blocks):
            is_last = index + 1 == len(self.layers)
            queries, *new = (
                (None, *block.keys_values(x, rope)) if is_last else block.project(x, rope)
            )
            keys, values = _append(past, index, *new)
            cache.keys.append(keys)
            cache.values.append(values)
            if queries is not None:
                x = block(x, queries, keys, values, mask=_as_mask(mask))
        return cache

    def forward(
        self, x: Tensor, past: Cache, modulations: Sequence[Modulation] | None = None
    ) -> Tensor:
        """`x` (batch, tokens, width), seeing `past` and itself, through all layers and the norm."""
        rope, mask = self._rope(x, past), _as_mask(_seen(x, past, None))
        parts: Sequence[Modulation | None] = (
            modulations if modulations is not None else [None] * (2 * len(self.layers) + 1)
        )
        for index, block in enumerate(self.blocks):
            pair = parts[2 * index : 2 * index + 2]
            queries, *new = block.project(x, rope, pair[0])
            x = block(x, queries, *_append(past, index, *new), pair, mask)
        out: Tensor = self.norm(x, parts[-1])
        return out

    def _rope(self, x: Tensor, past: Cache | None) -> Rope:
        head_dim, tokens = self.config.head_dim, x.shape[1]
        start = 0 if past is None else past.length
        if past is None or past.valid is None:
            return rope_tables(start, tokens, head_dim, x.device)
        table = rope_tables(0, start + tokens, head_dim, x.device)
        places = past.valid.sum(1)[:, None, None] + torch.arange(tokens, device=x.device)
        return table[0][places], table[1][places]


def _seen(x: Tensor, past: Cache | None, valid: Tensor | None) -> Tensor | None:
    """Which tokens of `past` and `x` are not padding, bool (batch, tokens); None: all."""
    before = None if past is None else past.valid
    if before is None and valid is None:
        return None
    new = x.new_ones(x.shape[:2], dtype=torch.bool) if valid is None else valid
    if past is None:
        return new
    if before is None:
        before = x.new_ones((x.shape[0], past.length), dtype=torch.bool)
    return torch.cat([before, new], dim=1)


def _as_mask(seen: Tensor | None) -> Tensor | None:
    return None if seen is None else seen[:, None, None]


def _append(past: Cache | None, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    if past is None:
        return keys, values
    return (
        torch.cat([past.keys[layer], keys], dim=2),
        torch.cat([past.values[layer], values], dim=2),
    )


def heads(x: Tensor, head_dim: int) -> Tensor:
    """`x` (batch, tokens, heads * head dim) as (batch, heads, tokens, head dim)."""
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def _gated(x: Tensor, modulation: Modulation | None) -> Tensor:
    return x if modulation is None else x * modulation[2]


def rope_tables(start: int, count: int, head_dim: int, device: torch.device) -> Rope:
    """Cosines and sines, float32 (count, head_dim / 2), of positions `start`, `start` + 1, ...

    See `rope_at`. Views of a table that is computed once.
    """
    cos, sin = _rope_table(1 << (start + count - 1).bit_length(), head_dim, device)
    return cos[start : start + count], sin[start : start + count]


@cache
def _rope_table(count: int, head_dim: int, device: torch.device) -> Rope:
    # Tensors made in inference mode could not be saved for a gradient later.
    with torch.inference_mode(False):
        return rope_at(torch.arange(count, device=device), head_dim)


def rope_at(positions: Tensor, head_dim: int) -> Rope:
    """Cosines and sines, float32 (..., head_dim / 2), of `positions` (...).

    The angles of rotary embedding (arXiv 2104.09864), position / base^(2i/d).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions[..., None].float() / ROPE_BASE ** (exponents / head_dim)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turn the halves of `x` (batch, heads, tokens, head dim) against each other, in float32."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    # Half as many kernels as the formula has operations; the tables make all of it float32.
    turned = [
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(second * cos, first, sin),
    ]
    return torch.cat(turned, dim=-1).to(x.dtype)
