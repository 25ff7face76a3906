"""The model's benchmark: what it counts, and that it runs on the tiny model."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.model import __main__ as model
from benchmarks.model.floor import Load, Work, count
from benchmarks.model.stages import ANSWER_TOKENS
from tests.golden import FAST_CHECKPOINT, overrides
from tests.worker.composition import compose_worker, model_config

FULL = Load(batch=1, cameras=3, prompt=48, steps=10)


def test_the_full_model_is_counted_as_published() -> None:
    work = count(model_config("env=aloha", "model=pi0"), FULL)
    assert work["vision"].flop == pytest.approx(661e9, rel=0.01)
    assert work["prefix"].flop == pytest.approx(3149e9, rel=0.01)
    assert work["denoising"].flop == pytest.approx(10 * 38.4e9, rel=0.03)
    # In bytes of bfloat16.
    assert 2 * work["vision"].parameters == pytest.approx(0.83e9, rel=0.01)
    assert 2 * work["prefix"].parameters == pytest.approx(3.75e9, rel=0.01)
    assert 2 * work["denoising"].parameters == pytest.approx(6.25e9, rel=0.01)


@pytest.mark.parametrize(("batch", "published"), [(1, 6.9), (2, 11.7), (4, 21.4), (8, 42.0)])
def test_the_floor_of_an_h100_is_the_published_one(batch: int, published: float) -> None:
    work = count(model_config("env=aloha", "model=pi0"), Load(batch, 3, 48, 10))
    floor = sum(each.floor_ms(798e12, 3.0e12, 2) for each in work.values())
    assert floor == pytest.approx(published, rel=0.02)


def test_a_stage_is_bound_by_arithmetic_or_by_memory() -> None:
    assert Work(flop=2e9, parameters=1.0).floor_ms(1e12, 1e9, 2) == pytest.approx(2.0)
    assert Work(flop=1.0, parameters=1e6).floor_ms(1e12, 1e9, 2) == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["pi0", "pi05", "tiny"])
def test_work_grows_with_the_batch_and_weights_are_read_once(kind: str) -> None:
    config = model_config("env=aloha", f"model={kind}")
    one, four = (count(config, Load(batch, 2, 20, 5)) for batch in (1, 4))
    for stage in one:
        assert four[stage].flop == pytest.approx(4 * one[stage].flop)
        assert four[stage].parameters == one[stage].parameters


def test_it_measures_the_tiny_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tiny-cpu-float32-depth2"
    result = run(monkeypatch, tmp_path, f"--model tiny --depth 2 --quick --name {name}")
    assert result["gemm_tflops"] == [0.2, 0.2]
    rows = {(row["batch"], row["stage"]): row for row in result["rows"]}
    stages = ("vision", "prefix", "denoising", "whole")
    assert rows.keys() == {(1, "transforms"), *((b, s) for b in (1, 2) for s in stages)}
    for row in result["rows"]:
        assert 0 < row["best_ms"] <= row["ms"]
        assert row["ratio"] == (row["floor_ms"] and row["best_ms"] / row["floor_ms"])
    parts = sum(rows[2, stage]["floor_ms"] for stage in stages[:3])
    assert rows[2, "whole"]["floor_ms"] == pytest.approx(parts)
    assert (tmp_path / "model-tiny-cpu-float32-depth2.png").stat().st_size > 10_000
    assert "chunks/s" in capsys.readouterr().out


def test_pi0_fast_reads_each_request_alone_and_all_weights_for_each_token() -> None:
    config = model_config("env=droid", "model=pi0_fast")
    one, four = (count(config, Load(batch, 3, 250, 10)) for batch in (1, 4))
    for stage in ("vision", "prefix"):
        assert four[stage].parameters == 4 * one[stage].parameters
        assert four[stage].flop == 4 * one[stage].flop
    # Gemma 2B without its embedding, and the embedding as the head.
    weights = 18 * (2 * 2048 * (2048 + 256) + 3 * 2048 * 16384) + 257152 * 2048
    assert one["token"].parameters == pytest.approx(weights, rel=0.01)
    assert four["token"].parameters == pytest.approx(weights, rel=0.02)
    assert four["token"].flop == 4 * one["token"].flop


def test_it_measures_a_tiny_pi0_fast(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [*overrides(FAST_CHECKPOINT), "runtime.threads=1"]
    config = compose_worker(*small)
    config.runtime.slots = 2
    monkeypatch.setattr(model, "composed", lambda given: config)
    result = run(monkeypatch, tmp_path, "--model pi0_fast --quick --name fast")
    rows = {(row["batch"], row["stage"]): row for row in result["rows"]}
    stages = ("vision", "prefix", "token", "whole")
    assert rows.keys() == {(1, "transforms"), *((b, s) for b in (1, 2) for s in stages)}
    floors = [rows[2, stage]["floor_ms"] for stage in stages]
    assert floors[3] == pytest.approx(floors[0] + floors[1] + ANSWER_TOKENS * floors[2])
    assert result["settings"]["prompt"] == config.model.max_token_len
    assert "token" in capsys.readouterr().out


def test_batches_can_be_compared_with_singles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(monkeypatch, tmp_path, "--model tiny --depth 1 --agreement --batches --name same")
    assert 0 <= result["batch_against_single"] < 1e-5
    assert "a batch of two against single answers" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        model.parse(["--model", "pi0_fast", "--agreement"])


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, options: str) -> dict[str, Any]:
    """What is saved under --name, at made-up rates."""
    monkeypatch.setattr(model, "RESULTS", folder)
    for rate, value in (("gemm_rate", 2e11), ("copy_rate", 3e10), ("read_rate", 3e10)):
        monkeypatch.setattr(model, rate, lambda *_, value=value: value)
    command = f"model {options} --device cpu --dtype float32 --threads 1".split()
    monkeypatch.setattr(sys, "argv", command)
    model.main()
    name = command[command.index("--name") + 1]
    result: dict[str, Any] = json.loads((folder / f"model-{name}.json").read_text())
    return result
