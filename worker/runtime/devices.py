"""Choosing a device and a dtype, checking that a model fits, and telling when a device failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from worker.config import Dtype
from worker.device_name import Device
from worker.errors import DeviceLost, SettingsError
from worker.models.attention import cpu_has_bfloat16

SPARE = 1.1
"""Memory needed, as a multiple of the weights: activations and rearranged copies come on top."""

_LIBRARIES = ("CUDA error", "CUDA driver error", "cuDNN error", "cuBLAS error")
"""Beginnings of the messages by which libraries report that the device itself failed."""


def choose_device(device: Device) -> torch.device:
    """The torch device of the setting; a GPU becomes the calling thread's current one.

    Streams, graphs and pinned memory are taken from the current GPU where nobody names one, so
    load and run a model on the same thread.

    Raises:
        SettingsError: CUDA, or the GPU of that number, is not here.
    """
    has_cuda = torch.cuda.is_available()
    if device == Device.cpu or (device == Device.auto and not has_cuda):
        return torch.device("cpu")
    if not has_cuda:
        raise SettingsError(f"device={device}: torch finds no CUDA device here; use device=cpu")
    if device.number is None:
        return torch.device("cuda")
    count = torch.cuda.device_count()
    if device.number >= count:
        raise SettingsError(
            f"device={device}: torch finds {count} CUDA devices here, cuda:0 to cuda:{count - 1}"
        )
    torch.cuda.set_device(device.number)
    return torch.device("cuda", device.number)


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
    """Check that `device` has room for weights of `needed` bytes.

    Raises:
        SettingsError: it has not; the message says what would help.
    """
    free = free_bytes(device)
    if free is not None and needed * SPARE > free:
        raise SettingsError(
            f"the model needs about {needed * SPARE / 1e9:.1f} GB on device={device}, and"
            f" {free / 1e9:.1f} GB are free: free some, take dtype=bfloat16, or a smaller model="
        )


def free_bytes(device: torch.device) -> int | None:
    """Bytes of memory that are free on `device`; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def put(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy `array` to `device`; to CUDA through pinned memory and without waiting for the copy."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@contextmanager
def watch_for_loss(device: torch.device) -> Iterator[None]:
    """Tell apart the errors of `device` itself, after which all later calls fail too.

    Running out of memory is not one of them: a smaller batch may still succeed.

    Raises:
        DeviceLost: instead of the library's own error.
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
