"""Real-time chunking in batches and graphs: every answer is what it would be alone."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.golden import FLOW_CHECKPOINTS, RTC_CHECKPOINTS, cases, overrides, rtc_cases
from tests.worker.composition import make_policy
from tests.worker.runtime.test_graphs import Recorder
from tests.worker.runtime.test_runner import (
    SETTINGS,
    golden_requests,
    made_up,
    make_runner,
    one_by_one,
)
from worker.robots.leftover import Guidance, Mode
from worker.robots.transforms import ModelInput
from worker.runtime.graphs import Captures, Replay
from worker.runtime.runner import Actions, Flow, Runner, Shape, flows


@cache
def guided_requests(checkpoint: str) -> list[ModelInput]:
    """The golden requests of both forms, and one of the trained form."""
    transforms = make_policy(*overrides(checkpoint)).transforms
    sent = [case.observation for case in rtc_cases(checkpoint)]
    trained = {**sent[0], "mode": "trained", "inference_delay": 4}
    return [transforms.inputs(each) for each in [*sent, trained]]


@cache
def plain_answers(checkpoint: str) -> list[Actions]:
    """Those to both kinds of requests, one by one."""
    runner = make_runner("num_steps=4", checkpoint=checkpoint)
    return one_by_one(runner, [*guided_requests(checkpoint), *golden_requests(checkpoint)])


@pytest.mark.parametrize("checkpoint", RTC_CHECKPOINTS)
@pytest.mark.parametrize("name", SETTINGS)
def test_all_forms_and_plain_requests_in_one_batch(checkpoint: str, name: str) -> None:
    requests = [*guided_requests(checkpoint), *golden_requests(checkpoint)]
    single = plain_answers(checkpoint)
    runner = make_runner(*SETTINGS[name], "num_steps=4", checkpoint=checkpoint)
    for answers in (runner(requests), runner(requests[::-1])[::-1]):
        np.testing.assert_allclose(answers, single, atol=2e-5, rtol=0)


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
def test_a_trained_prefix_comes_back_as_it_was_sent(checkpoint: str) -> None:
    policy = make_policy(*overrides(checkpoint))
    policy.load()
    sent = cases(checkpoint)[0].observation
    plain = policy.infer(sent)["actions"]
    left = {"prev_actions": plain[2:] + 0.1, "inference_delay": 3, "mode": "trained"}
    actions = policy.infer({**sent, **left})["actions"]
    np.testing.assert_allclose(actions[:3], left["prev_actions"][:3], atol=1e-5)
    assert np.abs(actions[3:] - plain[3:]).max() > 1e-4


def guided(request: ModelInput, mode: Mode) -> ModelInput:
    previous = np.full((50, 32), 0.25, np.float32)
    weights = np.ones(50, np.float32)
    given = 5 if mode is Mode.trained else 0
    return replace(request, guidance=Guidance(previous, weights, 5.0, given, mode))


def small_runner(*settings: str) -> Runner:
    return make_runner("env=aloha_sim", "model=tiny", "num_steps=2", *settings)


def test_plain_requests_pay_nothing_and_the_gradient_is_paid_by_its_own() -> None:
    runner = small_runner()
    plain = made_up(np.random.default_rng(0), 7)
    forms = {mode: guided(plain, mode) for mode in Mode}
    batch = [plain, forms[Mode.identity], forms[Mode.trained], forms[Mode.vjp]]
    assert runner._groups([plain, plain]) == {Shape(2, 1, 7, False, Flow.plain): [0, 1]}
    assert runner._groups(batch) == {
        Shape(3, 1, 7, False, Flow.guided): [0, 1, 2],
        Shape(1, 1, 7, False, Flow.by_gradient): [3],
    }


def test_rows_are_only_given_where_someone_gives_them() -> None:
    plain = made_up(np.random.default_rng(0), 7)
    identity, trained = guided(plain, Mode.identity), guided(plain, Mode.trained)
    shape = Shape(2, 1, 7, False, Flow.guided)
    runner, captured = small_runner(), small_runner("runtime.graphs=true")
    assert "given" not in runner._arrays([plain, identity], shape)
    assert runner._arrays([plain, trained], shape)["given"].sum(1).tolist() == [0, 5]
    assert not captured._arrays([plain, identity], shape)["given"].any()


def test_every_form_is_prepared() -> None:
    runner = small_runner("runtime.graphs=true")
    runner.prepare(2, [1], length=7)
    prepared = set(runner._replays)
    assert len(prepared) == len(Flow) * 2 * (4 + 1)
    plain = made_up(np.random.default_rng(0), 7)
    runner([plain, guided(plain, Mode.identity)])
    runner([guided(plain, Mode.vjp), guided(plain, Mode.trained)])
    assert set(runner._replays) == prepared


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ([], [Flow.plain]),
        (["trained"], [Flow.plain, Flow.guided]),
        (["vjp"], [Flow.plain, Flow.by_gradient]),
        (["vjp", "identity", "trained"], [Flow.plain, Flow.guided, Flow.by_gradient]),
    ],
)
def test_only_what_is_served_is_captured(modes: list[str], expected: list[Flow]) -> None:
    assert flows(modes) == expected


@pytest.mark.parametrize("flow", [Flow.guided, Flow.by_gradient])
def test_each_form_is_a_graph_of_its_own(monkeypatch: pytest.MonkeyPatch, flow: Flow) -> None:
    """The capture itself, with a stand-in for `torch.cuda`: backward pass and all inside of it."""
    recorder = Recorder(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "to", _stay(torch.Tensor.to))
    pinned = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *shape, pin_memory=False, **kept: pinned(*shape, **kept)
    )
    runner = small_runner("runtime.graphs=true")
    computed = []

    def compute(**given: torch.Tensor) -> torch.Tensor:
        recorder.note("compute")
        computed.append(runner._compute(Shape(1, 1, 7, False, flow))(**given))
        return computed[-1]

    blank = runner._blank(Shape(1, 1, 7, False, flow))
    cuda = torch.device("cuda")
    Replay(compute, blank, cuda, Captures(cuda))
    assert recorder.calls[-3:] == ["capture", "compute", "captured"]
    assert not any(actions.requires_grad for actions in computed)


def _stay(to: object) -> object:
    """Nothing moves to a device that is not there."""

    def moved(tensor: torch.Tensor, *where: object, **kept: object) -> torch.Tensor:
        if where and where[0] == torch.device("cuda"):
            return tensor
        return to(tensor, *where, **kept)  # type: ignore[operator,no-any-return]

    return moved
