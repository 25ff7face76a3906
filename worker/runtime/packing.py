"""Stores weights in the order in which a CPU's matrix units read them, once instead of per call.

A linear layer of few rows otherwise spends much of its time on rearranging its weight. oneDNN
does both, through the operators that torch's own compiler uses. Works in float32, and in bfloat16
where oneDNN has kernels for it (AVX512 or better).
"""

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from worker.models.gemma import Gemma
from worker.models.siglip import SigLip


class PackedLinear(nn.Module):
    """A linear layer whose weight only oneDNN can read."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        # Not a parameter: an opaque tensor has no storage that modules could move or save.
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach())
        self.bias = plain.bias
        self.nbytes = plain.weight.nbytes
        self.dtype = plain.weight.dtype

    @property
    def weight(self) -> Tensor:
        """The weight in its plain order, a copy: (out, in)."""
        return self.packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """`x` (..., in); returns (..., out)."""
        if torch.is_grad_enabled() and x.requires_grad:
            return cast(Tensor, _Product.apply(x, self))  # type: ignore[no-untyped-call]
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """`forward` without a gradient."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out


class _Product(torch.autograd.Function):
    """The product with its gradient in the input, which real-time chunking needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight, None


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN and its operators, and they know `dtype` on this CPU."""
    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=dtype))
    except RuntimeError:
        return False
    return True


def pack(model: nn.Module) -> None:
    """Pack the linear layers of all transformers within `model`, in place, one after the other.

    Linear layers of adaptive norms are left: they run once per step's time, at load.
    """
    for tower in [m for m in model.modules() if isinstance(m, Gemma | SigLip)]:
        _pack_within(tower)


def _pack_within(owner: nn.Module) -> None:
    # By name: a reference to a module would keep its unpacked weights in memory.
    for name in [name for name, _ in owner.named_children()]:
        child = owner.get_submodule(name)
        if type(child) is nn.Linear and name != "dense":
            setattr(owner, name, PackedLinear(child))
        else:
            _pack_within(child)
