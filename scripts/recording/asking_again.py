"""Asks a policy what was asked before, so that the two answers can be compared."""

from __future__ import annotations

from typing import Any

from client import ZmqPolicyClient
from scripts.recording.exchange import Exchange
from worker.seeds import seed_of

_OF_THE_CLIENT = ("client_timing", "server_timing")


def why_left_out(exchange: Exchange) -> tuple[str, str] | None:
    """Why it cannot be asked again and compared, as a kind and as words; None: it can be."""
    if exchange.result is None:
        code, _ = exchange.error or ("nothing", "")
        return "unanswered", f"is left out: it was answered with {code}"
    if exchange.observation is None or exchange.missing:
        return "incomplete", f"is left out: {exchange.missing}"
    return None


def ask_again(
    client: ZmqPolicyClient, exchange: Exchange
) -> tuple[dict[str, Any], dict[str, float]]:
    """Ask with the seed that the request had; returns the policy's answer, and the server's timing.

    Raises:
        client.errors.PolicyError: it was not answered.
    """
    observation = exchange.observation or {}
    is_seeded = "seed" in observation or "noise" in observation
    answer = client.infer(observation, seed=None if is_seeded else seed_of(exchange.request_id))
    timing: dict[str, float] = answer["server_timing"]
    return {key: answer[key] for key in answer if key not in _OF_THE_CLIENT}, timing
