"""What pi0-FAST's model and runner promise beyond their agreement with the public one."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.golden import FAST_CHECKPOINT, FOLDER, cases, overrides
from tests.worker.composition import compose_worker, make_fast_policy, model_config
from worker.config import Dtype
from worker.device_name import Device
from worker.errors import CheckpointError, DeviceLost
from worker.models.fast import BROKEN, END, MAX_WRITTEN, Pi0Fast, Writing
from worker.robots.tokenizers import Tokens
from worker.robots.transforms import ModelInput
from worker.runtime import fast_runner
from worker.runtime.fast_runner import FastRunner
from worker.runtime.loading import load_model

CONFIG = model_config(*overrides(FAST_CHECKPOINT))
RUNTIME = compose_worker("runtime.threads=1").runtime
PARAMS = FOLDER / FAST_CHECKPOINT / "params"
CPU = torch.device("cpu")


def make_runner(dtype: Dtype = Dtype.float32) -> FastRunner:
    return FastRunner(CONFIG, PARAMS, Device.cpu, dtype, RUNTIME)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads only get into each other's way at these sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runner() -> FastRunner:
    return make_runner()


@pytest.fixture(scope="module")
def requests() -> list[ModelInput]:
    """The golden observations; their prompts have different lengths."""
    inputs = make_fast_policy(*overrides(FAST_CHECKPOINT)).transforms.inputs
    return [inputs(case.observation) for case in cases(FAST_CHECKPOINT)]


def expected() -> list[Tokens]:
    return [case.raw_actions.astype(np.int64) for case in cases(FAST_CHECKPOINT)]


def test_requests_of_any_length_are_written_together(
    runner: FastRunner, requests: list[ModelInput]
) -> None:
    assert len({len(request.tokens) for request in requests}) == 4
    for order in ([0, 1, 2, 3], [3, 1]):
        for index, answer in zip(order, runner([requests[i] for i in order]), strict=True):
            np.testing.assert_array_equal(answer, expected()[index])


def test_logits_in_a_batch_are_those_of_the_request_alone(
    runner: FastRunner, requests: list[ModelInput]
) -> None:
    together = outputs(runner, requests)
    for row, request in enumerate(requests):
        alone = outputs(runner, [request])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def outputs(runner: FastRunner, requests: list[ModelInput]) -> torch.Tensor:
    """What the model puts out after each prefix and three more tokens."""
    with torch.inference_mode():
        writing = runner.model.blank(len(requests), room=900)
        rows = [runner._read(request, writing, row) for row, request in enumerate(requests)]
        runner.model.write_best(torch.cat(rows), writing)
        seen: list[torch.Tensor] = []
        for _ in range(3):
            runner.model.step(writing)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner.model, "write_best", lambda out, _: seen.append(out))
            runner.model.step(writing)
    return seen[0]


def test_writing_stops_with_the_last_row(
    runner: FastRunner, requests: list[ModelInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(int(np.flatnonzero(ids == END)[0]) for ids in expected())
    counts = count_steps(monkeypatch)
    runner(requests)
    assert len(counts) == longest
    counts.clear()
    monkeypatch.setattr(runner, "_check_every", 4)
    answers = runner(requests)
    assert longest <= len(counts) < longest + 4
    np.testing.assert_array_equal(answers, expected())


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    counts: list[None] = []
    step: Callable[[Pi0Fast, Writing], None] = Pi0Fast.step

    def counted(model: Pi0Fast, writing: Writing) -> None:
        counts.append(None)
        step(model, writing)

    monkeypatch.setattr(Pi0Fast, "step", counted)
    return counts


def test_an_answer_without_an_end_has_the_longest_length(
    requests: list[ModelInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner()
    runner.model.embedding[END] = 0
    counts = count_steps(monkeypatch)
    (answer,) = runner(requests[:1])
    assert len(counts) == MAX_WRITTEN - 1
    assert END not in answer
    np.testing.assert_array_equal(answer[:36], expected()[0][:36])


def test_memory_stays_where_it_is(runner: FastRunner, requests: list[ModelInput]) -> None:
    writing, _ = runner.prepare(2)
    places = [tensor.data_ptr() for tensor in vars(writing).values()]
    runner(requests[:2])
    assert runner.prepare(2)[0] is writing
    assert [tensor.data_ptr() for tensor in vars(writing).values()] == places


def test_one_broken_row_does_not_touch_the_others(
    runner: FastRunner, requests: list[ModelInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FastRunner._read

    def broken(self: FastRunner, request: ModelInput, writing: Writing, row: int) -> torch.Tensor:
        out = read(self, request, writing, row)
        if row != 1:
            return out
        writing.values[:, row] = torch.nan
        return out * torch.nan

    with monkeypatch.context() as patch:
        patch.setattr(FastRunner, "_read", broken)
        answers = runner(requests[:3])
    assert answers[1][0] == BROKEN
    assert not answers[1][1:].any()
    for index in (0, 2):
        np.testing.assert_array_equal(answers[index], expected()[index])
    np.testing.assert_array_equal(runner(requests[:3]), expected()[:3])


def test_a_prefix_beyond_the_room_is_refused(
    runner: FastRunner, requests: list[ModelInput]
) -> None:
    longer = replace(requests[0], tokens=np.full(CONFIG.max_token_len + 1, 5))
    with pytest.raises(ValueError, match="does not fit"):
        runner([longer])


def test_a_failing_device_is_told_apart_from_a_bad_request(
    runner: FastRunner, requests: list[ModelInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: Pi0Fast, writing: Writing) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access\nmore")

    monkeypatch.setattr(Pi0Fast, "step", fail)
    with pytest.raises(DeviceLost, match=r"service: CUDA error: an illegal memory access$"):
        runner(requests[:1])


def test_no_requests_have_no_answers(runner: FastRunner) -> None:
    assert runner([]) == []


def test_bfloat16_writes_almost_the_same(requests: list[ModelInput]) -> None:
    answers = np.stack(make_runner(Dtype.bfloat16)(requests))
    assert answers.shape == (4, MAX_WRITTEN)
    assert (answers == expected())[:, :10].mean() > 0.8


def test_a_flow_checkpoint_is_no_pi0_fast() -> None:
    weights = FOLDER / "pi0_aloha" / "model.safetensors"
    with pytest.raises(CheckpointError, match="pi0_fast"):
        FastRunner(CONFIG, weights, Device.cpu, Dtype.float32, RUNTIME)
    with pytest.raises(CheckpointError, match="pi0_fast"):
        load_model(model_config(*overrides("pi0_aloha")), PARAMS, CPU, torch.float32)


def test_on_cuda_the_end_is_looked_for_every_few_tokens() -> None:
    assert 1 < fast_runner.CHECK_EVERY < 10
