"""Choosing device and dtype, whether a model fits, and what a device's own failure looks like."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from worker.config import Device, Dtype
from worker.errors import DeviceLost, SettingsError
from worker.models.attention import cpu_has_bfloat16

SPARE = 1.1
"""Activations and the piece that is being rearranged come on top of the weights."""

_LIBRARIES = ("CUDA error", "CUDA driver error", "cuDNN error", "cuBLAS error")
"""How the messages begin by which libraries say that the device failed them."""


def choose_device(device: Device) -> torch.device:
    """The torch device of the setting. Raises `SettingsError` for CUDA where there is none."""
    has_cuda = torch.cuda.is_available()
    if device is Device.cuda and not has_cuda:
        raise SettingsError("device=cuda: torch finds no CUDA device here; use device=cpu")
    return torch.device("cuda" if has_cuda and device is not Device.cpu else "cpu")


def choose_dtype(dtype: Dtype, device: torch.device, embedded: bool = False) -> torch.dtype:
    """The torch dtype of the setting on `device`.

    `auto` is bfloat16 where the device multiplies it faster than float32 (CUDA, and CPUs with AMX
    or AVX512-BF16). The embedded model is too small to gain by it and stays float32 on a CPU.
    """
    if dtype is not Dtype.auto:
        return torch.bfloat16 if dtype is Dtype.bfloat16 else torch.float32
    fast = device.type == "cuda" or (cpu_has_bfloat16() and not embedded)
    return torch.bfloat16 if fast else torch.float32


def ensure_room(needed: int, device: torch.device) -> None:
    """Raises `SettingsError` where `device` has no room for weights of `needed` bytes."""
    free = free_bytes(device)
    if free is not None and needed * SPARE > free:
        raise SettingsError(
            f"the model needs about {needed * SPARE / 1e9:.1f} GB on device={device.type}, and"
            f" {free / 1e9:.1f} GB are free: free some, take dtype=bfloat16, or a smaller model="
        )


def free_bytes(device: torch.device) -> int | None:
    """Memory that could still be had on `device`; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def put(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """`array` on `device`; to CUDA through pinned memory, without waiting for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@contextmanager
def losing(device: torch.device) -> Iterator[None]:
    """Raises `DeviceLost` for an error after which every later call to `device` fails too.

    Too little memory is none of them: a smaller batch may go on.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, torch.AcceleratorError) or reason.startswith(_LIBRARIES):
            raise DeviceLost(f"{device} failed in the middle of service: {reason}") from error
        raise
