"""One tree of errors; each travels as a code and comes back as the same class."""

from __future__ import annotations

import re

import pytest

from client import errors
from client.errors import BY_CODE, PolicyError, from_wire, to_wire
from client.wire import MAX_HEADER, decode_header, encode_header

CLASSES = sorted(BY_CODE.values(), key=lambda cls: cls.__name__)
BRANCH = re.compile(r"^( +(?:\| *)*)\+-- (\w+)", re.MULTILINE)


@pytest.mark.parametrize("cls", CLASSES)
def test_it_comes_back_from_the_wire(cls: type[PolicyError]) -> None:
    error = from_wire(cls.code(), "what to do")
    assert type(error) is cls
    assert str(error) == "what to do"
    assert error.retry_after_s is None


@pytest.mark.parametrize("cls", CLASSES)
def test_it_says_what_it_is(cls: type[PolicyError]) -> None:
    assert cls.__doc__
    assert cls.code() == cls.code().lower()


def test_codes_are_the_names_in_snake_case() -> None:
    assert errors.NoWorker.code() == "no_worker"
    assert errors.ConnectionRefusedByPeer.code() == "connection_refused_by_peer"
    assert len(BY_CODE) == len(set(BY_CODE.values()))


def test_the_docstring_draws_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    above = ["PolicyError"]
    for indent, name in BRANCH.findall(errors.__doc__):
        depth = len(indent) // 5
        above[depth:] = [name]
        drawn[name] = above[depth - 1]
    defined = {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}
    del defined["PolicyError"]
    assert drawn == defined


def test_pythons_own_classes_catch_them_too() -> None:
    assert issubclass(errors.BadObservation, ValueError)
    assert issubclass(errors.DeadlineExceeded, TimeoutError)
    assert issubclass(errors.BrokerUnreachable, ConnectionError)
    assert issubclass(errors.ConnectionRefusedByPeer, ConnectionError)


def test_a_time_to_retry_after() -> None:
    sent = errors.Overloaded("later")
    sent.retry_after_s = 0.25
    fields = to_wire(sent)
    got = from_wire(fields["code"], fields["message"], fields["retry_after_ms"])
    assert got.retry_after_s == 0.25
    assert "retry_after_ms" not in to_wire(errors.NoWorker("none"))


@pytest.mark.parametrize("code", ["", "from_the_future", "policy_error", "PolicyError"])
def test_an_unknown_code_is_still_a_policy_error(code: str) -> None:
    assert type(from_wire(code, "message")) is PolicyError


@pytest.mark.parametrize("message", ["", "short", "é" * 5000, "x" * 10_000, "\ud800", "🤖" * 999])
def test_any_message_fits_into_a_header(message: str) -> None:
    packed = encode_header({"v": 1, "kind": "error", **to_wire(errors.PolicyFailed(message))})
    assert len(packed) < MAX_HEADER
    received = decode_header(packed)["message"]
    assert message.startswith(received) or received == "?"


def test_any_name_of_a_subclass_fits_into_a_header() -> None:
    longwinded = type("X" * 100, (PolicyError,), {})
    assert decode_header(encode_header({"v": 1, "kind": "error", **to_wire(longwinded("x"))}))
