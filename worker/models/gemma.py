"""Gemma, used twice: wide for images and text, narrow for state and actions.

After "Gemma" (arXiv 2403.08295). The two share no weights, but the narrow one's queries see the
wide one's keys and values, layer by layer: the cache of the one is the past of the other.
pi0.5's norms are adaptive: scale, shift and gate come from the time of the flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.config import ExpertConfig

ROPE_BASE = 10000.0

Modulation = tuple[Tensor, Tensor, Tensor]
"""Scale, shift and gate of one adaptive norm, each broadcastable to (batch, tokens, width)."""


@dataclass
class Cache:
    """Keys and values of all layers, each (batch, kv heads, tokens, head dim)."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def length(self) -> int:
        """Tokens held; also the position of the next one, since none is ever masked."""
        return self.keys[0].shape[2]


class RMSNorm(nn.Module):
    """`x / rms(x) * (1 + scale)` in float32; adaptive ones get scale and shift from outside."""

    def __init__(self, width: int, adaptive: bool) -> None:
        super().__init__()
        self.weight = None if adaptive else nn.Parameter(torch.empty(width))
        self.dense = nn.Linear(width, 3 * width) if adaptive else None

    def modulation(self, cond: Tensor) -> Modulation:
        """What `cond` (..., width) makes of an adaptive norm; each part is (..., width)."""
        if self.dense is None:
            raise ValueError("this norm is not adaptive")
        scale, shift, gate = self.dense(cond).chunk(3, dim=-1)
        return scale, shift, gate

    def forward(self, x: Tensor, modulation: Modulation | None = None) -> Tensor:
        """`x` and the result: (batch, tokens, width), in `x`'s dtype."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        if modulation is not None:
            scale, shift, _ = modulation
            wide = wide * (1.0 + scale) + shift
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

    def _heads(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        return x.view(batch, tokens, -1, self.config.head_dim).transpose(1, 2)

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Rotated keys, and values, of `x` (batch, tokens, width): (batch, kv heads, tokens, d)."""
        return rotate(self._heads(self.k_proj(x)), rope), self._heads(self.v_proj(x))

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], keys: Tensor, values: Tensor
    ) -> Tensor:
        """Queries of `x` over all of `keys` and `values`; returns (batch, tokens, width)."""
        queries = rotate(self._heads(self.q_proj(x)), rope)
        # With one key head this is a view, and on a CPU faster than queries folded into rows.
        share = self.config.num_heads // self.config.num_kv_heads
        keys, values = (
            t[:, :, None].expand(-1, -1, share, -1, -1).flatten(1, 2) for t in (keys, values)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values)
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

    def forward(
        self,
        x: Tensor,
        normed: Tensor,
        rope: tuple[Tensor, Tensor],
        keys: Tensor,
        values: Tensor,
        modulations: Sequence[Modulation | None] = (None, None),
    ) -> Tensor:
        """`x` (batch, tokens, width) through the layer; `normed` is `input_layernorm(x)`."""
        attention, mlp = modulations
        x = x + _gated(self.self_attn(normed, rope, keys, values), attention)
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

    def modulations(self, cond: Tensor) -> list[Modulation]:
        """All adaptive norms' parts for `cond`: two for each layer, then the final one's."""
        norms = [n for b in self.blocks for n in (b.input_layernorm, b.post_attention_layernorm)]
        return [norm.modulation(cond) for norm in (*norms, self.norm)]

    def extend(self, x: Tensor, past: Cache | None = None) -> Cache:
        """Keys and values of `past` and then of `x` (batch, tokens, width).

        The tokens of `x` see `past` and each other. Of the last layer only keys and values are
        computed: nothing else of it is ever used.
        """
        rope = self._rope(x, past)
        cache = Cache([], [])
        for index, block in enumerate(self.blocks):
            normed = block.input_layernorm(x)
            keys, values = block.self_attn.keys_values(normed, rope)
            keys, values = _append(past, index, keys, values)
            cache.keys.append(keys)
            cache.values.append(values)
            if index + 1 < len(self.layers):
                x = block(x, normed, rope, keys, values)
        return cache

    def forward(
        self, x: Tensor, past: Cache, modulations: Sequence[Modulation] | None = None
    ) -> Tensor:
        """`x` (batch, tokens, width), seeing `past` and itself, through all layers and the norm."""
        rope = self._rope(x, past)
        parts: Sequence[Modulation | None] = (
            modulations if modulations is not None else [None] * (2 * len(self.layers) + 1)
        )
        for index, block in enumerate(self.blocks):
            pair = parts[2 * index : 2 * index + 2]
            normed = block.input_layernorm(x, pair[0])
            keys, values = block.self_attn.keys_values(normed, rope)
            x = block(x, normed, rope, *_append(past, index, keys, values), pair)
        out: Tensor = self.norm(x, parts[-1])
        return out

    def _rope(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Tensor]:
        start = 0 if past is None else past.length
        return rope_tables(start, x.shape[1], self.config.head_dim, x.device)


def _append(past: Cache | None, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    if past is None:
        return keys, values
    return (
        torch.cat([past.keys[layer], keys], dim=2),
        torch.cat([past.values[layer], values], dim=2),
    )


def _gated(x: Tensor, modulation: Modulation | None) -> Tensor:
    return x if modulation is None else x * modulation[2].to(x.dtype)


def rope_tables(
    start: int, count: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 (count, head_dim / 2), of positions `start`, `start` + 1, ...

    The angles of rotary embedding (arXiv 2104.09864), position / base^(2i/d).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    positions = torch.arange(start, start + count, dtype=torch.float32, device=device)
    angles = positions[:, None] / ROPE_BASE**exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the halves of `x` (batch, heads, tokens, head dim) against each other, in float32."""
    cos, sin = rope
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x.dtype)
