"""A signal handler that raises, as Ctrl-C's does, wherever in the beginning of a call it comes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from client import ZmqPolicyClient, errors
from client.conversation import Conversation
from tests.client.scripted_broker import ScriptedBroker

BEGINNING = {"exchange", "_begin", "_answer"}  # of a call, until it sends


class Interrupter:
    """Raises KeyboardInterrupt before the given line of a call's beginning is executed."""

    def __init__(self, line: int) -> None:
        self._left = line
        self.has_struck = False

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code is Conversation._converse.__code__:
            self._left = -1
        if code.co_filename.endswith("conversation.py") and code.co_name in BEGINNING:
            return self._in_beginning
        return self.trace if code.co_filename.endswith("policy_client.py") else None

    def _in_beginning(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            if self._left == 0:
                self.has_struck = True
                self._left = -1
                raise KeyboardInterrupt
            self._left -= 1
        return self._in_beginning


def _call_interrupted_at(line: int, call: Callable[[], object]) -> bool:
    """Make a call; True if it was interrupted there, False if it has fewer lines."""
    interrupter = Interrupter(line)
    before = sys.gettrace()
    sys.settrace(interrupter.trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return interrupter.has_struck


def _outcome_in_a_thread(call: Callable[[], object]) -> object:
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(call())
        except errors.PolicyError as error:
            outcomes.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcomes[0]


def test_an_interrupted_call_leaves_the_client_to_the_next() -> None:
    lines = 0
    with ScriptedBroker() as broker:
        while True:
            with ZmqPolicyClient("127.0.0.1", broker.port, timeout_s=60.0) as client:
                if not _call_interrupted_at(lines, lambda: client.infer({})):
                    break
                assert "actions" in client.infer({}), lines
                answer = _outcome_in_a_thread(lambda: client.infer({}, deadline_s=20.0))
                assert isinstance(answer, dict), (lines, answer)
            lines += 1
    assert lines > 8


def test_a_call_that_had_no_turn_leaves_the_others_alone() -> None:
    """It was closed, or another thread took all its time: it must not end the other's call."""
    with ScriptedBroker() as broker, ZmqPolicyClient("127.0.0.1", broker.port) as client:
        turns = client._conversation._lock
        with turns:
            answer = _outcome_in_a_thread(lambda: client.infer({}, deadline_s=0.05))
            assert isinstance(answer, errors.DeadlineExceeded)
        assert "actions" in client.infer({})
        with pytest.raises(RuntimeError):
            turns.release()
