"""Which stages of timing a result carries, so that every peer on its way can read the header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.wire import LONGEST_MS

MOST_STAGES = 24
"""The wire allows 32 in all (`client.wire`), and the broker adds its own to these."""

LONGEST_NAME = 48
"""Bytes in the name of a stage: all of them together must leave room in a header of 4096."""

OTHER = "other_ms"
"""Where the stages beyond `MOST_STAGES` are added up."""


def fit_timing(stages: Mapping[Any, Any]) -> dict[str, float]:
    """The stages that can be sent: milliseconds of at most a day under short names.

    What is no such number is left out, and long names are cut. Stages beyond `MOST_STAGES` are
    added up as one more, `OTHER`, so that the sum stays what it was.
    """
    fitting: dict[str, float] = {}
    for name, spent in stages.items():
        if type(spent) not in (int, float) or not abs(spent) <= LONGEST_MS:  # nor NaN
            continue
        short = name
        if type(name) is not str or len(name) * 4 > LONGEST_NAME:
            short = str(name).encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")
        if short not in fitting and len(fitting) >= MOST_STAGES:
            short = OTHER
        fitting[short] = fitting.get(short, 0.0) + spent
    return fitting
