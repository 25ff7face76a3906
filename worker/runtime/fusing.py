"""Rearranges the weights of a loaded model so that it runs in fewer and larger operations.

The model files stay plain; `fuse` puts other modules, with the same methods, in place of theirs.
Results change by rounding only: three products of one input become one, a norm's scale is
multiplied into the weights behind it (in float32, then cast back), and unused parts are dropped.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models import gemma, siglip
from worker.models.attention import attend
from worker.models.gemma import Gemma, RMSNorm, Rope, heads, rotate
from worker.models.pi0 import Pi0
from worker.models.siglip import SigLip


def fuse(model: nn.Module, stacks_prefix: bool = True) -> None:
    """Fuse all transformers within `model` in place; in a whole pi0 also what only that allows.

    Modules are replaced one by one, so that at most one is in memory twice.

    Args:
        model: a loaded model.
        stacks_prefix: whether pi0's wide Gemma gets stacked products too. With hundreds of rows
            a CPU is faster with separate ones, whose results are contiguous (benchmarks/LOG.md).
    """
    # Of the towers alone: a list of all modules would keep the replaced ones in memory.
    for tower in [m for m in model.modules() if isinstance(m, Gemma | SigLip)]:
        if isinstance(tower, Gemma):
            is_prefix = isinstance(model, Pi0) and tower is model.vlm
            for block in tower.blocks:
                _fold_block(block)
                if is_prefix and block is tower.blocks[-1]:
                    _drop_unread(tower)
                elif stacks_prefix or not is_prefix:
                    block.self_attn = FusedAttention(block.self_attn)
                    block.mlp = FusedMlp(block.mlp)
        else:
            tower.patch_embedding = cast(nn.Conv2d, PatchProjection(tower.patch_embedding))
            for layer in tower.layers:
                seeing = cast(siglip.Block, layer)
                seeing.self_attn = FusedVisionAttention(seeing.self_attn)
    if isinstance(model, Pi0):
        fold(model.expert.norm, [model.action_out_proj])


def fold(norm: RMSNorm, readers: list[nn.Linear]) -> None:
    """Multiply a plain norm's `1 + scale` into the weights of all layers that read it.

    (n * (1 + s)) W^T = n (W * (1 + s))^T. Adaptive norms change with time and stay as they are.
    """
    if norm.weight is None:
        return
    scale = 1.0 + norm.weight.float()
    for reader in readers:
        reader.weight = _frozen((reader.weight.float() * scale).to(reader.weight.dtype))
    norm.weight = None


class FusedAttention(gemma.Attention):
    """Gemma's attention with one product for queries, keys and values."""

    def __init__(self, plain: gemma.Attention) -> None:
        nn.Module.__init__(self)
        self.config = plain.config
        self.qkv_proj = stacked([plain.q_proj, plain.k_proj, plain.v_proj])
        self.o_proj = plain.o_proj

    def project(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """As in `gemma.Attention`; queries and keys are rotated together."""
        queries, keys = self.config.num_heads, self.config.num_kv_heads
        both = heads(self.qkv_proj(x), self.config.head_dim)
        turned = rotate(both[:, : queries + keys], rope)
        return turned[:, :queries], turned[:, queries:], both[:, queries + keys :]

    def keys_values(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """As in `gemma.Attention`; for few tokens only, since queries are computed too."""
        _, keys, values = self.project(x, rope)
        return keys, values


class KeysValues(gemma.Attention):
    """The keys and values of an attention whose queries are not used, as one product."""

    def __init__(self, plain: gemma.Attention) -> None:
        nn.Module.__init__(self)
        self.config = plain.config
        self.kv_proj = stacked([plain.k_proj, plain.v_proj])

    def keys_values(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """As the plain one."""
        keys, values = heads(self.kv_proj(x), self.config.head_dim).chunk(2, dim=1)
        return rotate(keys, rope), values


class FusedMlp(gemma.Mlp):
    """Gemma's MLP with one product for gate and up."""

    def __init__(self, plain: gemma.Mlp) -> None:
        nn.Module.__init__(self)
        self.gate_up_proj = stacked([plain.gate_proj, plain.up_proj])
        self.down_proj = plain.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """As the plain one."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(F.gelu(gate, approximate="tanh") * up)
        return out


class FusedVisionAttention(siglip.Attention):
    """SigLIP's attention with one product for queries, keys and values."""

    def __init__(self, plain: siglip.Attention) -> None:
        nn.Module.__init__(self)
        self.num_heads = plain.num_heads
        self.qkv_proj = stacked([plain.q_proj, plain.k_proj, plain.v_proj])
        self.out_proj = plain.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """As the plain one."""
        qkv = self.qkv_proj(x).view(*x.shape[:2], 3, self.num_heads, -1)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind()
        out: Tensor = self.out_proj(attend(queries, keys, values).transpose(1, 2).flatten(-2))
        return out


class PatchProjection(nn.Module):
    """A convolution whose stride is its kernel: one product over patches that do not overlap."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self.size = plain.kernel_size[0]
        self.proj = linear(plain.weight.flatten(1), plain.bias)

    @property
    def weight(self) -> Tensor:
        """The weight; `SigLip` casts pixels to its dtype."""
        return self.proj.weight

    def forward(self, pixels: Tensor) -> Tensor:
        """`pixels` (n, 3, height, width); returns (n, out, height / size, width / size)."""
        n, _, height, width = pixels.shape
        grid = (height // self.size, width // self.size)
        patches = pixels.view(n, 3, grid[0], self.size, grid[1], self.size)
        rows = patches.permute(0, 2, 4, 1, 3, 5).reshape(n, grid[0] * grid[1], -1)
        out: Tensor = self.proj(rows).transpose(1, 2).view(n, -1, *grid)
        return out


def _fold_block(block: gemma.Block) -> None:
    attention, mlp = block.self_attn, block.mlp
    fold(block.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj])
    fold(block.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj])


def _drop_unread(vlm: Gemma) -> None:
    """Drop all of the last prefix layer but its keys and values: the expert reads nothing else."""
    last = vlm.blocks[-1]
    last.self_attn = KeysValues(last.self_attn)
    del last.mlp, last.post_attention_layernorm, vlm.norm


def stacked(parts: list[nn.Linear]) -> nn.Linear:
    """One linear layer that gives the outputs of `parts`, one after the other."""
    weights: list[Tensor] = [part.weight for part in parts]
    biases: list[Tensor] = [part.bias for part in parts if part.bias is not None]
    return linear(torch.cat(weights), torch.cat(biases) if biases else None)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of these weights, frozen."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = _frozen(weight)
    if bias is not None:
        made.bias = _frozen(bias)
    return made


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)
