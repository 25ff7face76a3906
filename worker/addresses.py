"""The addresses of a worker's brokers, as they are given."""

from __future__ import annotations

from collections.abc import Sequence

from worker.errors import SettingsError

MAX_BROKERS = 16
"""The most that one worker may register with."""


def broker_list(given: object) -> list[str]:
    """The addresses of `broker=`, in order: one, several with commas, or a list.

    One that is named twice counts once.

    Raises:
        SettingsError: it is something else.
    """
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, Sequence) or not all(isinstance(each, str) for each in parts):
        raise SettingsError(f"broker={given}: an address or a list of addresses is expected")
    addresses = [each.strip() for each in parts]
    if not addresses or not all(addresses) or len(addresses) > MAX_BROKERS:
        raise SettingsError(f"broker={given}: 1 to {MAX_BROKERS} addresses are expected")
    return list(dict.fromkeys(addresses))
