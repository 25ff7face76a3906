"""Which leaf of a JAX checkpoint is which tensor of the PyTorch form, and how it is rearranged.

JAX stacks all layers of a kind in one leaf, stores matrices as (in, out) and keeps heads on an
axis of their own; the PyTorch form is the transformers library's, as in `worker.checkpoints.names`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
Turn = Callable[[Array], Array]


@dataclass(frozen=True)
class Part:
    """One tensor that a leaf (or a layer of it) becomes."""

    name: str
    turn: Turn


def same(x: Array) -> Array:
    """Nothing to rearrange."""
    return x


def transposed(x: Array) -> Array:
    """(in, out) to (out, in)."""
    return x.T


def flat(x: Array) -> Array:
    """(heads, head dim) to (heads * head dim,)."""
    return x.reshape(-1)


def heads_out(x: Array) -> Array:
    """(heads, width, head dim) to (heads * head dim, width)."""
    return x.transpose(0, 2, 1).reshape(-1, x.shape[1])


def split_heads_out(x: Array) -> Array:
    """(width, heads, head dim) to (heads * head dim, width)."""
    return x.reshape(x.shape[0], -1).T


def heads_in(x: Array) -> Array:
    """(heads, head dim, width) to (width, heads * head dim)."""
    return x.reshape(-1, x.shape[-1]).T


def patches(x: Array) -> Array:
    """(height, width, channels, out) to (out, channels, height, width)."""
    return x.transpose(3, 2, 0, 1)


def first(turn: Turn) -> Turn:
    """The first of two stacked matrices (keys, gate)."""
    return lambda x: turn(x[0])


def second(turn: Turn) -> Turn:
    """The second of two stacked matrices (values, up)."""
    return lambda x: turn(x[1])


_PALIGEMMA = "paligemma_with_expert.paligemma"
_VISION = f"{_PALIGEMMA}.model.vision_tower.vision_model"
_GEMMAS = (f"{_PALIGEMMA}.model.language_model", "paligemma_with_expert.gemma_expert.model")

_GEMMA: dict[str, tuple[Part, ...]] = {
    "final_norm/scale": (Part("norm.weight", same),),
    "final_norm/Dense_0/kernel": (Part("norm.dense.weight", transposed),),
    "final_norm/Dense_0/bias": (Part("norm.dense.bias", same),),
}
_GEMMA_LAYER: dict[str, tuple[Part, ...]] = {
    "attn/q_einsum/w": (Part("self_attn.q_proj.weight", heads_out),),
    "attn/kv_einsum/w": (
        Part("self_attn.k_proj.weight", first(heads_out)),
        Part("self_attn.v_proj.weight", second(heads_out)),
    ),
    "attn/attn_vec_einsum/w": (Part("self_attn.o_proj.weight", heads_in),),
    "mlp/gating_einsum": (
        Part("mlp.gate_proj.weight", first(transposed)),
        Part("mlp.up_proj.weight", second(transposed)),
    ),
    "mlp/linear": (Part("mlp.down_proj.weight", transposed),),
    "pre_attention_norm/scale": (Part("input_layernorm.weight", same),),
    "pre_attention_norm/Dense_0/kernel": (Part("input_layernorm.dense.weight", transposed),),
    "pre_attention_norm/Dense_0/bias": (Part("input_layernorm.dense.bias", same),),
    "pre_ffw_norm/scale": (Part("post_attention_layernorm.weight", same),),
    "pre_ffw_norm/Dense_0/kernel": (Part("post_attention_layernorm.dense.weight", transposed),),
    "pre_ffw_norm/Dense_0/bias": (Part("post_attention_layernorm.dense.bias", same),),
}
_SIGLIP: dict[str, tuple[Part, ...]] = {
    "embedding/kernel": (Part("embeddings.patch_embedding.weight", patches),),
    "embedding/bias": (Part("embeddings.patch_embedding.bias", same),),
    "pos_embedding": (Part("embeddings.position_embedding.weight", lambda x: x[0]),),
    "Transformer/encoder_norm/scale": (Part("post_layernorm.weight", same),),
    "Transformer/encoder_norm/bias": (Part("post_layernorm.bias", same),),
}
_HEADS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
_ATTENTION = "MultiHeadDotProductAttention_0"
_SIGLIP_LAYER: dict[str, tuple[Part, ...]] = {
    **{
        f"LayerNorm_{i}/{leaf}": (Part(f"layer_norm{i + 1}.{name}", same),)
        for i in (0, 1)
        for leaf, name in (("scale", "weight"), ("bias", "bias"))
    },
    **{
        f"MlpBlock_0/Dense_{i}/{leaf}": (Part(f"mlp.fc{i + 1}.{name}", turn),)
        for i in (0, 1)
        for leaf, name, turn in (("kernel", "weight", transposed), ("bias", "bias", same))
    },
    **{
        f"{_ATTENTION}/{leaf}/kernel": (Part(f"self_attn.{name}.weight", split_heads_out),)
        for leaf, name in _HEADS.items()
    },
    **{
        f"{_ATTENTION}/{leaf}/bias": (Part(f"self_attn.{name}.bias", flat),)
        for leaf, name in _HEADS.items()
    },
    f"{_ATTENTION}/out/kernel": (Part("self_attn.out_proj.weight", heads_in),),
    f"{_ATTENTION}/out/bias": (Part("self_attn.out_proj.bias", same),),
}
EMBEDDING = "PaliGemma/llm/embedder/input_embedding"
"""As it is, and so large that only some rows of it are read at a time."""
_PROJECTIONS = (
    "state_proj",
    "action_in_proj",
    "action_out_proj",
    "action_time_mlp_in",
    "action_time_mlp_out",
    "time_mlp_in",
    "time_mlp_out",
)


def _whole() -> Iterator[tuple[str, tuple[Part, ...]]]:
    """Leaves that become tensors as they are, by their path."""
    for name in _PROJECTIONS:
        yield f"{name}/kernel", (Part(f"{name}.weight", transposed),)
        yield f"{name}/bias", (Part(f"{name}.bias", same),)
    head = f"{_PALIGEMMA}.model.multi_modal_projector.linear"
    yield "PaliGemma/img/head/kernel", (Part(f"{head}.weight", transposed),)
    yield "PaliGemma/img/head/bias", (Part(f"{head}.bias", same),)
    for path, parts in _SIGLIP.items():
        yield f"PaliGemma/img/{path}", _under(_VISION, parts)
    for expert, gemma in enumerate(_GEMMAS):
        for path, parts in _GEMMA.items():
            yield f"PaliGemma/llm/{_of_expert(path, expert)}", _under(gemma, parts)


def _layered() -> Iterator[tuple[str, tuple[Part, ...]]]:
    """Leaves with one layer after the other on their first axis; `{}` stands for its number."""
    for path, parts in _SIGLIP_LAYER.items():
        yield (
            f"PaliGemma/img/Transformer/encoderblock/{path}",
            _under(f"{_VISION}.encoder.layers.{{}}", parts),
        )
    for expert, gemma in enumerate(_GEMMAS):
        for path, parts in _GEMMA_LAYER.items():
            # The number stands at the module: attn/q_einsum_1/w, mlp_1/linear.
            yield (
                f"PaliGemma/llm/layers/{_of_expert(path, expert)}",
                _under(f"{gemma}.layers.{{}}", parts),
            )


def _under(prefix: str, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(Part(f"{prefix}.{part.name}", part.turn) for part in parts)


def _of_expert(path: str, expert: int) -> str:
    """The path of the same leaf in the second expert: the module's name ends in `_1` there."""
    if expert == 0:
        return path
    names = path.split("/")
    module = 1 if names[0] == "attn" else 0
    names[module] += f"_{expert}"
    return "/".join(names)


WHOLE = dict(_whole())
LAYERED = dict(_layered())
