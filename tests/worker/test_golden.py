"""The policy agrees with the public implementation in every golden case and stage."""

import pytest

from tests.golden import CHECKPOINTS, FLOW_CHECKPOINTS
from tests.golden.__main__ import Agreement, agreements, jax_agreements

# Four cases of six comparisons or more, and the stages of the last.
FEWEST = 24 + 5


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_every_stage_is_within_its_limit(checkpoint: str) -> None:
    rows = list(agreements(checkpoint))
    assert len(rows) >= FEWEST - 1
    assert [row for row in rows if not row.holds] == []


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
def test_jax_form_gives_the_same(checkpoint: str) -> None:
    rows = list(jax_agreements(checkpoint))
    assert len(rows) >= FEWEST - 1
    assert [row for row in rows if not row.holds] == []


@pytest.mark.parametrize(("error", "holds"), [(0.0, True), (1e-3, False), (float("nan"), False)])
def test_a_difference_beyond_the_limit_does_not_hold(error: float, holds: bool) -> None:
    assert Agreement("case", "stage", error, limit=1e-4).holds is holds
