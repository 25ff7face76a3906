"""What keeps a worker from serving, told in one line by `python -m worker`.

    WorkerError
     |
     +-- SettingsError       the settings contradict each other or are out of range
     +-- CheckpointError     weights, statistics or tokenizer are missing or don't fit
     +-- DeviceLost          the device failed in the middle of service: the process must end

Each message names the key to change. What is wrong with one observation is not here: that is
`client.errors.BadObservation`, and it fails its own request only.
"""


class WorkerError(Exception):
    """Base of all that stops a worker, at its start or later."""


class SettingsError(WorkerError, ValueError):
    """Settings of the right type that can't work; the message names the key."""


class CheckpointError(WorkerError):
    """A file of the checkpoint can't be used; the message names it and the way on."""


class DeviceLost(WorkerError):
    """The device can't go on. A policy may raise it too: the worker says goodbye and exits."""
