"""Each technique's gain can be measured, at sizes that take no time."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.model import gains, techniques
from tests.worker.composition import model_config
from worker.models.pi0 import Pi0
from worker.runtime.loading import load_model


def small(model: str, depth: int, *settings: str) -> Pi0:
    """A tiny model of the kind, with the depth that was asked for."""
    parts = ("vision", "vlm", "expert")
    sizes = [f"model.{part}.depth={depth}" for part in parts]
    config = model_config("model=tiny", f"model.architecture={model}", *sizes, *settings)
    return load_model(config, None, torch.device("cpu"), torch.float32)


def test_every_technique_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (gains, techniques):
        monkeypatch.setattr(module, "made_up", small)
    monkeypatch.setitem(techniques.GROUPS, "head", lambda bench: None)
    monkeypatch.setattr(techniques, "RESULTS", tmp_path)
    options = ["--times", "1", "--threads", "1", "--name", "small"]
    monkeypatch.setattr(sys, "argv", ["techniques", *options])
    techniques.main()
    result = json.loads((tmp_path / "techniques-small.json").read_text())
    found = {(gain["technique"], gain["stage"]) for gain in result["gains"]}
    assert len(found) == len(result["gains"]) >= 16
    for gain in result["gains"]:
        assert gain["with_ms"] > 0
        assert gain["ratio"] == pytest.approx(gain["without_ms"] / gain["with_ms"])
    assert "packed weights" in capsys.readouterr().out


@torch.no_grad()
def test_what_is_switched_off_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gains, techniques):
        monkeypatch.setattr(module, "made_up", small)
    bench = gains.Bench(depth=2, times=1)
    alike: list[tuple[object, object]] = []
    monkeypatch.setattr(bench, "compare", lambda *given: alike.append((given[2](), given[3]())))
    techniques.forms_of_weights(bench)
    pairs = [pair for pair in alike if isinstance(pair[0], torch.Tensor)]
    assert len(pairs) >= 3
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
