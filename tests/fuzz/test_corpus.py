"""Whatever fuzzing has found stays handled; needs no fuzzer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.events import ToRobot
from broker.inflight import InFlight
from broker.leases import Leases
from broker.outbox import Outbox
from client.errors import ProtocolError
from tests.fuzz import core, decoder
from tests.fuzz.saved import inputs


def replay(target: str, play: Callable[[bytes], None]) -> None:
    saved = inputs(target)
    assert len(saved) > 20
    for file in saved:
        play(file.read_bytes())


def test_decoder() -> None:
    replay("decoder", decoder.decode)


def test_core() -> None:
    replay("core", core.play)


def test_a_decoder_that_raises_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(frame: Any, expected: frozenset[str]) -> dict[str, Any]:
        raise KeyError("v")

    monkeypatch.setattr(decoder, "decode_header", careless)
    with pytest.raises(KeyError):
        replay("decoder", decoder.decode)


def test_a_request_that_is_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leases, "expire", lambda self, now: None)
    seen = "woken at once, for ever|deadline_ms"  # or given to a worker with no time left
    with pytest.raises((AssertionError, ProtocolError), match=seen):
        replay("core", core.play)


def test_a_second_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = InFlight.answer

    def twice(self: InFlight, request: Any, header: Any, payload: Any) -> None:
        answer(self, request, header, payload)
        self._outbox.commands.append(ToRobot(request.envelope, header, payload))

    monkeypatch.setattr(InFlight, "answer", twice)
    with pytest.raises(AssertionError, match="a second answer"):
        replay("core", core.play)


def test_a_field_that_no_worker_reads_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    tell = Outbox.tell

    def wrongly(self: Outbox, worker: bytes, kind: str, payload: Any = (), **fields: Any) -> None:
        if "deadline_ms" in fields:
            fields["deadline_ms"] = -1.0
        tell(self, worker, kind, payload, **fields)

    monkeypatch.setattr(Outbox, "tell", wrongly)
    with pytest.raises(Exception, match="deadline_ms"):
        replay("core", core.play)
