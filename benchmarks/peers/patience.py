"""Waiting for a server that is still starting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_PATIENCE_S = 60.0
_PAUSE_S = 0.05

Connection = TypeVar("Connection")


def keep_trying(connect: Callable[[], Connection]) -> Connection:
    """What `connect` returns, once it does; its OSError after a minute of trying."""
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return connect()
        except OSError:
            if time.monotonic() > give_up:
                raise
        time.sleep(_PAUSE_S)
