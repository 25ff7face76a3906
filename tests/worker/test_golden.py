"""The policy agrees with the public implementation in every golden case and stage."""

from itertools import takewhile

import pytest
import torch

from tests.golden import CHECKPOINTS, FLOW_CHECKPOINTS, FOLDER, overrides
from tests.golden.__main__ import Agreement, agreements, jax_agreements
from tests.worker.composition import model_config
from worker.runtime.loading import load_model

# Four cases of six comparisons or more, and the stages of the last.
FEWEST = 24 + 5


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_every_stage_is_within_its_limit(checkpoint: str) -> None:
    rows = list(agreements(checkpoint))
    assert len(rows) >= FEWEST - 1
    assert [row for row in rows if not row.holds] == []


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
def test_jax_form_gives_the_same(checkpoint: str) -> None:
    """Its weights are the same bit for bit, so what the first case shows the others would show."""
    config = model_config(*overrides(checkpoint))
    plain, jax = (
        load_model(config, FOLDER / checkpoint / form, torch.device("cpu"), torch.float32)
        for form in ("model.safetensors", "params")
    )
    for one, other in zip(plain.parameters(), jax.parameters(), strict=True):
        assert torch.equal(one, other)
    first = list(takewhile(lambda row: "/0 " in row.case, jax_agreements(checkpoint)))
    assert {row.stage for row in first} >= {"tokens", "state", "raw actions", "robot actions"}
    assert [row for row in first if not row.holds] == []


@pytest.mark.parametrize(("error", "holds"), [(0.0, True), (1e-3, False), (float("nan"), False)])
def test_a_difference_beyond_the_limit_does_not_hold(error: float, holds: bool) -> None:
    assert Agreement("case", "stage", error, limit=1e-4).holds is holds
