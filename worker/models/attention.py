"""Attention: one function for vision tower and Gemma, in the form that is fastest on each device.

All forms compute the same, up to the rounding of the dtype. Where several query heads share one
key and value head, queries are either folded into rows of that head or the keys repeated (as a
view, without memory). Measured gains are in benchmarks/LOG.md.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from `queries` (batch, heads, tokens, d); the result has their shape and dtype.

    `keys`, `values`: (batch, kv heads, n, d); `mask`: bool, broadcastable to (batch, 1, 1, n), the
    keys that may be seen. None: all.
    """
    if queries.is_cuda:
        return folded(queries, keys, values, mask)
    if queries.dtype == torch.bfloat16 and (queries.requires_grad or not cpu_has_amx()):
        return explicit(queries, keys, values, mask)
    return expanded(queries, keys, values, mask)


def expanded(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Keys and values repeated for each query head; best on a CPU where SDPA uses its units."""
    share = queries.shape[1] // keys.shape[1]
    if share > 1:
        keys, values = (
            t[:, :, None].expand(-1, -1, share, -1, -1).flatten(1, 2) for t in (keys, values)
        )
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def folded(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Query heads as rows of their key head: keys are read once; for GPUs."""
    rows = queries.reshape(*keys.shape[:2], -1, queries.shape[3])
    mixed = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
    return mixed.reshape(queries.shape)


def explicit(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Two matrix products around a softmax.

    Two to three times as fast as torch's fused form in bfloat16 on CPUs with AVX512-BF16 but
    without AMX, since only the matrix products of oneDNN use those units there; and with AMX for
    learning, as the fused form's gradient does not use it. Scores are rounded to the dtype before
    the softmax, as in the public PyTorch form.
    """
    rows = queries.reshape(*keys.shape[:2], -1, queries.shape[3]) * queries.shape[3] ** -0.5
    scores = torch.bmm(rows.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
    scores = scores.view(*keys.shape[:2], *scores.shape[1:])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    mixed = torch.bmm(scores.softmax(-1).flatten(0, 1), values.flatten(0, 1))
    return mixed.view(queries.shape)


@cache
def cpu_has_amx() -> bool:
    """Whether this CPU multiplies bfloat16 tiles."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 at all, with AMX or AVX512-BF16."""
    return cpu_has_amx() or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
