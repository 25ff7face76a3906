"""How graphs are captured, told from the calls: what they do can only be seen on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.worker.composition import compose_worker
from worker.config import Dtype
from worker.device_name import Device
from worker.runtime import layout
from worker.runtime.graphs import WARM_UPS, Captures
from worker.runtime.packing import PackedLinear
from worker.runtime.runner import Runner


class Recorder:
    """Stands in for `torch.cuda`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.streams = 0
        self.shared: set[Any] = set()
        for name in ("graph_pool_handle", "synchronize", "current_stream", "CUDAGraph"):
            monkeypatch.setattr(torch.cuda, name, lambda name=name: self.note(name))
        monkeypatch.setattr(torch.cuda, "Stream", self.stream)
        monkeypatch.setattr(torch.cuda, "stream", self.inside)
        monkeypatch.setattr(torch.cuda, "graph", self.capture)

    def note(self, name: str) -> str:
        self.calls.append(name)
        return name

    def stream(self, device: torch.device) -> "Recorder":
        self.streams += 1
        return self

    def wait_stream(self, other: str) -> None:
        self.calls.append(f"wait for {other}")

    @contextmanager
    def inside(self, stream: object) -> Iterator[None]:
        assert stream is self
        self.calls.append("in the stream")
        yield
        self.calls.append("out of it")

    @contextmanager
    def capture(self, graph: str, **settings: Any) -> Iterator[None]:
        self.shared.add((settings["pool"], settings["stream"]))
        self.calls.append("capture")
        yield
        self.calls.append("captured")


def test_a_capture_comes_after_warm_ups_in_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    captures = Captures(torch.device("cuda"))
    assert not recorder.calls
    graph, result = captures.capture(lambda: recorder.note("compute"))
    assert (str(graph), result) == ("CUDAGraph", "compute")
    assert recorder.calls == [
        "graph_pool_handle",
        "current_stream",
        "wait for current_stream",
        "in the stream",
        *["compute"] * WARM_UPS,
        "out of it",
        "synchronize",
        "CUDAGraph",
        "capture",
        "compute",
        "captured",
    ]


def test_all_graphs_of_a_model_share_stream_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    captures = Captures(torch.device("cuda"))
    for _ in range(3):
        captures.capture(lambda: None)
    assert recorder.streams == 1
    assert recorder.shared == {("graph_pool_handle", recorder)}
    assert recorder.calls.count("graph_pool_handle") == 1


@pytest.mark.parametrize(("compiles", "graphs"), [(False, None), (False, True), (True, None)])
def test_compilation_and_graphs_follow_their_switches(
    monkeypatch: pytest.MonkeyPatch, compiles: bool, graphs: bool | None
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(layout, "compile_layers", compiled.append)
    config = compose_worker("env=aloha_sim", "model=tiny", "num_steps=1")
    config.runtime.compile, config.runtime.graphs = compiles, graphs
    runner = Runner(config.model, None, Device.cpu, Dtype.float32, config.runtime, 1, 0)
    packed = [m for m in runner.model.modules() if isinstance(m, PackedLinear)]
    assert compiled == ([runner.model] if compiles else [])
    assert bool(packed) is not compiles
    runner.prepare(1, [1], 7)
    # What is compiled needs fixed shapes.
    assert bool(runner._replays) is (compiles or graphs is True)
