"""Arguments and values in every form that says the same, and errors that name the argument."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import pytest

from client import ZmqPolicyClient, errors
from client.body import decode_body, encode_body
from tests.client.scripted_broker import ScriptedBroker

WAIT_S = 60.0


class Prompt(str, enum.Enum):  # noqa: UP042 - the form that robots on Python 3.8 have
    FOLD = "fold the towel"


class Task(enum.Enum):
    FOLD = "fold the towel"


class Text(str):
    pass


def test_every_kind_of_number_and_text() -> None:
    with ScriptedBroker() as broker:
        client = ZmqPolicyClient(
            Text("127.0.0.1"),
            str(broker.port),
            timeout_s=np.float32(WAIT_S),  # type: ignore[arg-type]
            connect_timeout_s=np.int64(WAIT_S),  # type: ignore[arg-type]
            priority=np.int32(3),  # type: ignore[arg-type]
            robot=Text("arm"),
            policy=Prompt.FOLD,
            session=np.str_("s"),
        )
        with client:
            client.infer({}, deadline_s=np.float64(WAIT_S), seed=np.uint32(7))  # type: ignore[arg-type]
        header = broker.requests[0].header
        assert (header["priority"], header["robot"], header["session"]) == (3, "arm", "s")
        assert header["policy"] == "fold the towel"
        assert broker.requests[0].body["seed"] == 7


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("timeout_s", "10"),
        ("timeout_s", float("nan")),
        ("timeout_s", 0.0),
        ("timeout_s", None),
        ("connect_timeout_s", True),
        ("connect_timeout_s", np.array([1.0, 2.0])),
        ("priority", 10),
        ("priority", 1.5),
        ("priority", True),
        ("port", 0),
        ("port", "http"),
        ("port", None),
        ("host", 5),
        ("policy", ""),
        ("policy", 7),
        ("session", 7),
        ("robot", 7),
    ],
)
def test_what_is_refused_is_refused_by_name(name: str, given: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is "):
        ZmqPolicyClient(**{"host": "127.0.0.1", "port": 1, name: given})


def test_a_deadline_that_is_no_number() -> None:
    with ScriptedBroker() as broker, ZmqPolicyClient("127.0.0.1", broker.port) as client:
        with pytest.raises(ValueError, match="^deadline_s is "):
            client.infer({}, deadline_s="soon")  # type: ignore[arg-type]
        with pytest.raises(errors.BadObservation, match="^seed"):
            client.infer({}, seed=1.5)  # type: ignore[arg-type]


def test_a_ping_without_time_is_not_one_with_the_usual_time() -> None:
    with ScriptedBroker() as broker, ZmqPolicyClient("127.0.0.1", broker.port) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.ping(0.0)
        assert client.ping(np.float64(WAIT_S))["version"] == "0"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Text("fold"), "fold"),
        (Prompt.FOLD, "fold the towel"),
        (Task.FOLD, "fold the towel"),
        (np.str_("fold"), "fold"),
        (enum.IntEnum("Number", {"ONE": 1}).ONE, 1),  # type: ignore[attr-defined]
        (type("List", (list,), {})([1, 2]), [1, 2]),
    ],
)
def test_texts_and_values_of_every_kind(given: Any, expected: Any) -> None:
    frames = [bytes(frame) for frame in encode_body({"prompt": given})]
    decoded = decode_body(frames)["prompt"]
    assert decoded == expected
    assert type(decoded) is type(expected)


def test_lists_of_numpy_scalars_and_integer_states() -> None:
    state = [np.float32(1.5), np.int64(2), 3]
    frames = [bytes(frame) for frame in encode_body({"state": state})]
    assert decode_body(frames)["state"] == [1.5, 2, 3]
