"""Errors that keep a worker from serving; `python -m worker` prints each in one line.

    WorkerError
     |
     +-- SettingsError       the settings contradict each other or are out of range
     +-- CheckpointError     weights, statistics or tokenizer are missing or don't fit
     +-- MissingExtra        a package of the `worker` extra is not installed
     +-- DeviceLost          the device failed in the middle of service: the process must end

Each message names the key to change. What is wrong with one observation is not here: that is
`client.errors.BadObservation`, and it fails its own request only.
"""

from __future__ import annotations

_EXTRA = frozenset(
    (
        *("boto3", "google_crc32c", "hydra", "ml_dtypes", "omegaconf", "rich", "scipy"),
        *("sentencepiece", "tensorstore", "tokenizers", "torch", "zstandard"),
    )
)
"""What `pip install 'zmq-policy-broker[worker]'` brings, by the names that are imported."""


class WorkerError(Exception):
    """Base of all errors that stop a worker, at its start or later."""


class SettingsError(WorkerError, ValueError):
    """Settings of the right type that can't work; the message names the key."""


class CheckpointError(WorkerError):
    """A file of the checkpoint can't be used; the message names it and the way on."""


class MissingExtra(WorkerError):
    """A package of the `worker` extra is not installed; the message says how to install it."""


class DeviceLost(WorkerError):
    """The device can't go on. A policy may raise it too: the worker says goodbye and exits."""


def missing_extra(error: BaseException | None) -> MissingExtra | None:
    """The error to show instead of one that a missing package of the extra has caused."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            package = (error.name or "").partition(".")[0]
            if package in _EXTRA:
                return MissingExtra(
                    f"the worker needs {package}, which is not installed:"
                    " pip install 'zmq-policy-broker[worker]'"
                )
        error = error.__cause__ or error.__context__
    return None
