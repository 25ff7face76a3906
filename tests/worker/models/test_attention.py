"""The forms of attention are one function."""

from collections.abc import Callable

import pytest
import torch

from worker.models.attention import attend, expanded, explicit, folded

Form = Callable[..., torch.Tensor]
Shape = tuple[int, ...]

SHAPES = [((2, 8, 5, 16), (2, 1, 11, 16)), ((1, 6, 4, 8), (1, 2, 4, 8)), ((3, 4, 7, 8),) * 2]


def tensors(queries: Shape, keys: Shape, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    numbers = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=numbers).to(dtype) for shape in (queries, keys, keys)]


def by_hand(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """After the definition, one head after the other, in float64."""
    share = queries.shape[1] // keys.shape[1]
    heads = []
    for head in range(queries.shape[1]):
        q, k, v = queries[:, head], keys[:, head // share], values[:, head // share]
        scores = q.double() @ k.double().transpose(1, 2) / q.shape[-1] ** 0.5
        heads.append(scores.softmax(-1) @ v.double())
    return torch.stack(heads, dim=1)


@pytest.mark.parametrize("form", [expanded, folded, explicit])
@pytest.mark.parametrize(("queries", "keys"), SHAPES)
def test_every_form_is_attention(form: Form, queries: Shape, keys: Shape) -> None:
    given = tensors(queries, keys)
    found = form(*given, None)
    assert found.shape == queries
    torch.testing.assert_close(found.double(), by_hand(*given), atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", [expanded, folded, explicit])
def test_masked_keys_are_as_good_as_absent(form: Form) -> None:
    queries, keys, values = tensors(*SHAPES[0])
    mask = torch.arange(11)[None] < torch.tensor([[7], [11]])
    found = form(queries, keys, values, mask[:, None, None])
    expected = by_hand(queries[:1], keys[:1, :, :7], values[:1, :, :7])
    torch.testing.assert_close(found[:1].double(), expected, atol=1e-5, rtol=0)
    whole = by_hand(queries[1:], keys[1:], values[1:])
    torch.testing.assert_close(found[1:].double(), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("has_amx", [True, False])
def test_bfloat16_keeps_its_dtype(
    monkeypatch: pytest.MonkeyPatch, has_amx: bool, learns: bool
) -> None:
    monkeypatch.setattr("worker.models.attention.cpu_has_amx", lambda: has_amx)
    given = tensors(*SHAPES[0], dtype=torch.bfloat16)
    found = attend(given[0].clone().requires_grad_(learns), *given[1:])
    assert found.dtype == torch.bfloat16
    assert found.requires_grad is learns
    torch.testing.assert_close(found.detach().double(), by_hand(*given), atol=2e-2, rtol=0)
