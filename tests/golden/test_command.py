"""The table of agreement, and its exit code."""

import pytest

from tests.golden import __main__ as golden
from tests.golden.__main__ import Agreement


@pytest.mark.parametrize(("error", "code", "holds"), [(1e-5, 0, "yes"), (1e-3, 1, "NO")])
def test_one_disagreement_fails_the_whole(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: float,
    code: int,
    holds: str,
) -> None:
    row = Agreement("case", "raw actions", error, golden.MODEL)
    monkeypatch.setattr(golden, "agreements", lambda checkpoint: iter([row]))
    monkeypatch.setattr(golden, "jax_agreements", lambda checkpoint: iter([row]))
    assert golden.main() == code
    assert holds in capsys.readouterr().out
