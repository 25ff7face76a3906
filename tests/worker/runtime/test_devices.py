"""Where a model runs, in what, and whether it fits."""

import pytest
import torch

from tests.worker.composition import make_policy
from worker.config import Dtype
from worker.device_name import Device
from worker.errors import DeviceLost, SettingsError
from worker.models import attention
from worker.runtime import devices
from worker.runtime.devices import (
    choose_device,
    choose_dtype,
    ensure_room,
    free_bytes,
    watch_for_loss,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
F32, BF16 = torch.float32, torch.bfloat16


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(Device.auto) == choose_device(Device.cpu) == CPU
    with pytest.raises(SettingsError, match="device=cuda"):
        choose_device(Device.cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(Device.auto) == choose_device(Device.cuda) == CUDA
    assert choose_device(Device.cpu) == CPU


def test_the_gpu_of_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device(Device("cuda:7")) == torch.device("cuda:7")
    assert chosen == [7]
    with pytest.raises(SettingsError, match="device=cuda:8: torch finds 8 .* cuda:0 to cuda:7"):
        choose_device(Device("cuda:8"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="device=cuda:0: torch finds no CUDA device"):
        choose_device(Device("cuda:0"))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "", "cuda:0 "])
def test_names_that_are_no_device(name: str) -> None:
    with pytest.raises(SettingsError, match="is none of cpu, cuda, cuda:N"):
        Device(name)


@pytest.mark.parametrize(
    ("dtype", "device", "fast_cpu", "embedded", "expected"),
    [
        (Dtype.auto, CUDA, False, True, BF16),
        (Dtype.auto, CPU, True, False, BF16),
        (Dtype.auto, CPU, True, True, F32),
        (Dtype.auto, CPU, False, False, F32),
        (Dtype.bfloat16, CPU, False, True, BF16),
        (Dtype.float32, CUDA, True, False, F32),
    ],
)
def test_dtypes(
    monkeypatch: pytest.MonkeyPatch,
    dtype: Dtype,
    device: torch.device,
    fast_cpu: bool,
    embedded: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: fast_cpu)
    assert choose_dtype(dtype, device, embedded) == expected


@pytest.mark.parametrize(
    ("flags", "amx", "bfloat16"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True, True),
        ({"amx_bf16": False, "avx512_bf16": True}, False, True),
        ({}, False, False),
    ],
)
def test_what_a_cpu_can(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], amx: bool, bfloat16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert attention.cpu_has_amx.__wrapped__() is amx
    monkeypatch.setattr(attention, "cpu_has_amx", lambda: amx)
    assert attention.cpu_has_bfloat16.__wrapped__() is bfloat16


def test_free_memory_is_a_sensible_number() -> None:
    free = free_bytes(CPU)
    assert free is not None
    assert 1e6 < free < 1e15


def test_a_model_that_does_not_fit_says_how_much_is_needed_and_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: 10_000_000_000)
    ensure_room(9_000_000_000, CPU)
    with pytest.raises(SettingsError, match=r"needs about 11.0 GB on device=cpu, and 10.0 GB"):
        ensure_room(10_000_000_000, CPU)
    monkeypatch.setattr(devices, "free_bytes", lambda device: 10_000_000)
    policy = make_policy("env=aloha_sim", "model=tiny")
    with pytest.raises(SettingsError, match=r"0\.0 GB are free"):
        policy.load()


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_a_device_that_failed_is_lost(error: RuntimeError) -> None:
    with (
        pytest.raises(DeviceLost, match=r"^cuda failed in the middle of service: (CUDA|cuDNN)"),
        watch_for_loss(CUDA),
    ):
        raise error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("shapes"), ValueError("x")]
)
def test_other_errors_are_the_requests_own(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), watch_for_loss(CUDA):
        raise error
