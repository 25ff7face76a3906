"""The names of devices, as settings give them; no torch is needed to check one."""

import re
from typing import ClassVar

from worker.errors import SettingsError


class Device(str):
    """Where the model runs: `cpu`, `cuda`, `cuda:N` or `auto`, which is CUDA where there is one.

    `cuda:N` is the GPU of that number, from 0; `cuda` alone is the first.
    """

    cpu: ClassVar["Device"]
    cuda: ClassVar["Device"]
    auto: ClassVar["Device"]

    def __new__(cls, name: str) -> "Device":
        """Check the name; whether this machine has such a device is seen when a model is loaded.

        Raises:
            SettingsError: it names no device.
        """
        if not re.fullmatch(r"cpu|cuda(:\d{1,3})?|auto", name, re.ASCII):
            raise SettingsError(
                f"device={name} is none of cpu, cuda, cuda:N (the GPU number N, from 0) and auto"
            )
        return super().__new__(cls, name)

    @property
    def number(self) -> int | None:
        """The GPU's number, where the name has one."""
        _, _, number = self.partition(":")
        return int(number) if number else None


Device.cpu, Device.cuda, Device.auto = Device("cpu"), Device("cuda"), Device("auto")
