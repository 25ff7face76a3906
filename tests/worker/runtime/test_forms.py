"""Fused, packed and compiled models are the plain ones, rearranged."""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import nn

from tests.golden import FLOW_CHECKPOINTS, cases, overrides
from tests.golden.__main__ import difference
from tests.worker.composition import make_policy
from tests.worker.runtime.forms import CPU, actions, golden_model, inputs
from worker.models import gemma
from worker.models.pi0 import Pi0
from worker.runtime import layout
from worker.runtime.fusing import FusedAttention, FusedMlp, KeysValues, PatchProjection, fuse
from worker.runtime.layout import arrange, compile_layers
from worker.runtime.packing import PackedLinear, can_pack, pack

FORMS: dict[str, list[Callable[[nn.Module], None]]] = {
    "fused": [fuse],
    "fused but for the prefix": [partial(fuse, stacks_prefix=False)],
    "packed": [pack],
    "fused and packed": [fuse, pack],
    "fused and compiled": [fuse, partial(compile_layers, backend="eager")],
}


@cache
def plain_actions(checkpoint: str) -> torch.Tensor:
    """What the model computes as it was loaded."""
    return actions(golden_model(checkpoint), inputs(2))


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_computes_what_the_plain_one_does(checkpoint: str, form: str) -> None:
    model = golden_model(checkpoint)
    for rearrange in FORMS[form]:
        rearrange(model)
    torch.testing.assert_close(
        actions(model, inputs(2)), plain_actions(checkpoint), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
def test_the_plain_form_agrees_with_golden(checkpoint: str) -> None:
    policy = make_policy(*overrides(checkpoint))
    model = golden_model(checkpoint)
    for case in cases(checkpoint):
        given = policy.transforms.inputs(case.observation)
        images = torch.stack([torch.from_numpy(i) for i in given.images.values()])[None]
        tokens, state = torch.from_numpy(given.tokens)[None], torch.from_numpy(given.state)[None]
        with torch.no_grad():
            cache = model.prefix(images, tokens, state.float())
            start = torch.from_numpy(case.noise)[None]
            raw = model.sample(cache, start, model.flow_steps(10))[0].numpy()
        assert difference(raw, case.raw_actions) < 2e-4


def test_fusing_replaces_and_drops_what_it_says() -> None:
    model = golden_model("pi0_aloha")
    before = sum(p.numel() for p in model.parameters())
    fuse(model)
    first, last = model.vlm.blocks[0], model.vlm.blocks[-1]
    assert isinstance(first.self_attn, FusedAttention)
    assert isinstance(first.mlp, FusedMlp)
    assert isinstance(last.self_attn, KeysValues)
    assert not hasattr(last, "mlp")
    assert not hasattr(model.vlm, "norm")
    assert isinstance(model.vision.patch_embedding, PatchProjection)
    assert first.input_layernorm.weight is model.expert.norm.weight is None
    vlm = model.config.vlm
    unread = 3 * vlm.width * vlm.mlp_dim + 2 * vlm.width * vlm.num_heads * vlm.head_dim
    assert before - sum(p.numel() for p in model.parameters()) > unread


def test_a_cpu_keeps_the_prefix_in_several_products() -> None:
    model = golden_model("pi0_aloha")
    arrange(model, CPU, compiles=False)
    assert type(model.vlm.blocks[0].mlp) is gemma.Mlp
    assert isinstance(model.vlm.blocks[-1].self_attn, KeysValues)
    assert isinstance(model.expert.blocks[0].mlp, FusedMlp)


def test_adaptive_norms_are_not_folded() -> None:
    model = golden_model("pi05_droid")
    fuse(model)
    assert model.expert.blocks[0].input_layernorm.dense is not None
    assert model.vlm.blocks[0].input_layernorm.weight is None


def test_folding_happens_in_float32() -> None:
    model = golden_model("pi0_aloha", torch.bfloat16)
    block = model.vlm.blocks[0]
    scale = torch.rand(model.config.vlm.width)
    block.input_layernorm.weight = nn.Parameter(scale, requires_grad=False)
    weight = block.self_attn.q_proj.weight.float()
    fuse(model)
    fused = block.self_attn
    assert isinstance(fused, FusedAttention)
    expected = (weight * (1 + scale)).bfloat16()
    assert torch.equal(fused.qkv_proj.weight[: len(expected)], expected)


@pytest.mark.parametrize("checkpoint", ["pi0_aloha", "pi05_libero"])
def test_arranged_models_keep_their_gradient_in_the_noisy_actions(checkpoint: str) -> None:
    arranged = golden_model(checkpoint)
    arrange(arranged, CPU, compiles=False)
    gradients = [gradient(model) for model in (golden_model(checkpoint), arranged)]
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def gradient(model: Pi0) -> torch.Tensor:
    noisy = torch.zeros((1, 5, 32), requires_grad=True)
    with torch.no_grad():
        cache, step = model.prefix(*inputs(1)), model.flow_step(0.5)
    (found,) = torch.autograd.grad(model.velocity(noisy, cache, step)[0, 2, 3], noisy)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_layer(dtype: torch.dtype, bias: bool) -> None:
    if not can_pack(dtype):
        pytest.skip(f"oneDNN has no kernels for {dtype} on this CPU")
    plain = nn.Linear(48, 32, bias=bias, dtype=dtype).requires_grad_(False)
    packed = PackedLinear(plain)
    assert torch.equal(packed.weight, plain.weight)
    assert (packed.dtype, packed.nbytes) == (dtype, plain.weight.nbytes)
    for shape in [(1, 48), (3, 48), (2, 7, 48)]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        torch.testing.assert_close(packed(x), plain(x))


def test_float32_can_be_packed_anywhere_and_what_onednn_lacks_is_not() -> None:
    assert can_pack(torch.float32)
    assert not can_pack(torch.float64)


def test_a_dtype_that_cannot_be_packed_is_served_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "can_pack", lambda dtype: dtype != torch.bfloat16)
    model = golden_model("pi0_aloha", torch.bfloat16)
    arrange(model, CPU, compiles=False)
    assert not [m for m in model.modules() if isinstance(m, PackedLinear)]
    assert actions(model, inputs(1)).isfinite().all()


def test_packing_leaves_no_plain_layer_in_the_transformers() -> None:
    model = golden_model("pi05_droid")
    arrange(model, CPU, compiles=False)
    plain = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    inside = {n for n in plain if n.startswith(("vision.", "vlm.", "expert."))}
    assert inside == {n for n in inside if n.endswith(".dense")}
    assert plain - inside >= {"action_in_proj", "action_out_proj"}


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
def test_padding_is_exact(checkpoint: str) -> None:
    model = golden_model(checkpoint)
    images, tokens, state = inputs(2, length=9)
    lengths = torch.tensor([9, 4])
    start = torch.zeros((2, model.config.action_horizon, 32))
    steps = model.flow_steps(3)
    with torch.no_grad():
        both = model.sample(model.prefix(images, tokens, state, lengths), start, steps)
        for row, length in enumerate(lengths.tolist()):
            alone = images[[row]], tokens[[row], :length], state[[row]]
            one = model.sample(model.prefix(*alone), start[[row]], steps)
            torch.testing.assert_close(both[[row]], one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpoint", ["pi0_aloha", "pi05_libero"])
def test_bfloat16_points_where_float32_does(checkpoint: str) -> None:
    wide, narrow = (golden_model(checkpoint, d) for d in (torch.float32, torch.bfloat16))
    arrange(narrow, CPU, compiles=False)
    one, other = (actions(model, inputs(1), steps=10).flatten() for model in (wide, narrow))
    assert torch.cosine_similarity(one, other, dim=0) > 0.999
    assert not torch.equal(one, other)
