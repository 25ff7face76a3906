"""The worker's protocol as lists of events: what happened, and what is then to be done."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from client.errors import ProtocolError
from client.wire import (
    FROM_WORKER,
    MAX_CLIENT,
    MAX_HEADER,
    MAX_INT,
    MAX_SLOTS,
    Header,
    RequestId,
    decode_header,
    encode_header,
)
from worker.events import (
    BROKEN,
    DRAIN_S,
    REFUSED,
    RETIRED_S,
    STOPPED,
    Answered,
    Command,
    Event,
    Exit,
    Introduction,
    Log,
    PolicyBroken,
    PolicyReady,
    Received,
    Run,
    Send,
    Stop,
    Tick,
    Undecodable,
)
from worker.session import SILENCE_S, Session
from worker.stages import MOST_STAGES, OTHER, fit_timing

EPOCH = 7
ABOUT = Introduction(b"i" * 16, "arm", 2, 50, "d", (b"about",))
RESULT: Header = {"kind": "result", "timing": {"infer_ms": 1.0}}


class Life:
    """One session and its clock; what it asked for is read by kind."""

    def __init__(self, introduction: Introduction = ABOUT) -> None:
        self.now = 100.0
        self.session = Session(introduction, "tcp://there:1", self.now)
        self.commands: list[Command] = []

    def tell(self, *events: Event) -> list[Command]:
        """Handle events at this moment; returns what they lead to."""
        self.commands = [each for e in events for each in self.session.handle(e, self.now)]
        return self.commands

    def hear(self, kind: str, payload: Sequence[bytes] = (), **fields: Any) -> list[Command]:
        """The broker says something, as it comes off the wire."""
        header = {"v": 1, "kind": kind, "epoch": EPOCH, **fields}
        return self.tell(Received(decode_header(encode_header(header)), payload))

    def passes(self, seconds: float) -> list[Command]:
        """Time passes, with ticks when they are wanted; returns what those lead to."""
        until, commands = self.now + seconds, []
        while self.session.wake_at() <= until:
            self.now = max(self.now, self.session.wake_at())
            commands += self.tell(Tick())
            if any(isinstance(each, Exit) for each in commands):
                break
        self.now = max(self.now, until)
        return commands

    def said(self, kind: str | None = None) -> list[Header]:
        """The headers last sent, as the broker reads them."""
        sent = [each.header for each in self.commands if isinstance(each, Send)]
        headers = [decode_header(encode_header(header), FROM_WORKER) for header in sent]
        return [header for header in headers if kind in (None, header["kind"])]


def welcomed(**fields: Any) -> Life:
    life = Life()
    life.tell(Tick())
    life.hear("welcome", heartbeat_ms=100.0, **fields)
    return life


def ready(**fields: Any) -> Life:
    life = welcomed(**fields)
    life.tell(PolicyReady(ABOUT, 5.0))
    return life


def given(life: Life, sequence: int = 1, attempt: int = 1, **fields: Any) -> Header:
    """A request, taken in hand; returns the header that `Run` has."""
    id = RequestId(b"c" * 16, sequence)
    (run,) = life.hear("infer", (b"body",), id=id, attempt=attempt, **fields)
    assert isinstance(run, Run)
    assert list(run.payload) == [b"body"]
    return run.request


def kinds(commands: Sequence[Command]) -> list[str]:
    return [each.header["kind"] for each in commands if isinstance(each, Send)]


def exits(commands: Sequence[Command]) -> list[int]:
    return [each.code for each in commands if isinstance(each, Exit)]


def logged(commands: Sequence[Command]) -> str:
    return "\n".join(each.text for each in commands if isinstance(each, Log))


def test_it_says_hello_until_it_is_welcome() -> None:
    life = Life()
    life.tell(Tick())
    (hello,) = life.said()
    told = {key: hello[key] for key in ("policy", "digest", "horizon", "slots", "state")}
    assert told == {
        "policy": "arm", "digest": "d", "horizon": 50, "slots": 2, "state": "warming"
    }  # fmt: skip
    assert (hello["incarnation"], "epoch" in hello) == (b"i" * 16, False)
    assert life.commands == [Send(life.commands[0].header, (b"about",))]  # type: ignore[union-attr]
    assert kinds(life.passes(0.35)) == ["hello"] * 3
    life.hear("welcome", heartbeat_ms=100.0)
    assert set(kinds(life.passes(0.35))) == {"heartbeat"}


def test_ready_follows_the_welcome_and_the_warm_up_whichever_is_later() -> None:
    life = welcomed()
    assert life.said() == []
    life.tell(PolicyReady(ABOUT, 5.0))
    assert life.said("ready")[0]["inference_ms"] == 5.0
    early = Life()
    early.tell(Tick(), PolicyReady(ABOUT, None))
    assert kinds(early.commands) == ["hello"]
    early.hear("welcome")
    (said,) = early.said("ready")
    assert (said["slots"], said["epoch"], "inference_ms" in said) == (2, EPOCH, False)


def test_a_digest_that_is_known_only_when_warm_is_told_before_ready() -> None:
    unknown = Introduction(b"i" * 16, "arm", 2, 0, None, (b"",))
    life = Life(unknown)
    life.tell(Tick())
    assert "digest" not in life.said("hello")[0]
    life.hear("welcome")
    life.tell(PolicyReady(ABOUT, None))
    assert kinds(life.commands) == ["hello", "ready"]
    assert life.said("hello")[0]["digest"] == "d"


def test_a_request_is_in_hand_until_it_is_answered() -> None:
    life = ready()
    request = given(life, attempt=2)
    life.hear("heartbeat", n=41)
    (beat,) = [e.header for e in life.passes(0.1) if isinstance(e, Send)]
    assert (beat["n"], beat["ids"]) == (41, [[request["id"], 2]])
    life.tell(Answered(request, RESULT, (b"actions",)))
    (result,) = life.said("result")
    assert (result["id"], result["attempt"], result["epoch"]) == (request["id"], 2, EPOCH)
    life.passes(0.1)
    assert life.said("heartbeat")[0]["ids"] == []


def test_what_cannot_be_decoded_is_answered_too() -> None:
    life = ready()
    request = given(life)
    life.tell(Undecodable(request, ProtocolError("the body is not msgpack")))
    (failure,) = life.said()
    assert (failure["kind"], failure["code"]) == ("failure", "protocol_error")
    assert life.session.in_hand == {}


def test_an_attempt_that_came_twice_is_answered_twice() -> None:
    life = ready()
    requests = [given(life), given(life)]
    for request in requests:
        life.tell(Answered(request, RESULT, (b"actions",)))
        assert len(life.said("result")) == 1


def test_an_answer_for_a_broker_of_another_life_is_not_sent() -> None:
    life = ready()
    old = given(life)
    life.hear("welcome", epoch=EPOCH + 1)
    life.passes(0.1)
    assert life.said("heartbeat")[0]["ids"] == []
    assert kinds(life.tell(Answered(old, RESULT, (b"actions",)))) == []
    assert "restarted" in logged(life.commands)
    assert life.session.in_hand == {}


@pytest.mark.parametrize("size", [100, 101])
def test_an_answer_that_is_too_large_fails_its_request_only(size: int) -> None:
    life = ready(max_bytes=100)
    life.tell(Answered(given(life), RESULT, (b"x" * (size - 40), memoryview(b"x" * 40))))
    (said,) = life.said()
    if size <= 100:
        assert said["kind"] == "result"
    else:
        assert (said["kind"], said["code"]) == ("failure", "policy_failed")
        assert "101 bytes" in said["message"]
        assert "limits.max_bytes" in said["message"]


def test_more_stages_than_a_header_may_have() -> None:
    life = ready()
    timing = {f"{'é' * 100}{n}_ms" if n % 2 else f"{n}_ms": 1.0 for n in range(60)}
    life.tell(Answered(given(life), {"kind": "result", "timing": timing}, (b"",)))
    (result,) = life.said("result")
    assert MOST_STAGES < len(result["timing"]) + 2 <= 32  # the broker adds two
    assert sum(result["timing"].values()) == 60.0
    assert len(encode_header(result)) < MAX_HEADER - 300


def test_stages_that_are_no_milliseconds_are_left_out() -> None:
    inf, nan = float("inf"), float("nan")
    given: dict[Any, Any] = {"a": 1, "b": nan, "c": inf, "d": "5", "e": None, 7: 2.0, "f": True}
    assert fit_timing(given) == {"a": 1, "7": 2.0}
    exactly = {str(n): 1.0 for n in range(MOST_STAGES)}
    assert fit_timing(exactly) == exactly
    assert fit_timing({**exactly, "x": 2.0, "y": 3.0}) == {**exactly, OTHER: 5.0}


def test_a_heartbeat_has_room_for_every_request_in_hand() -> None:
    """What it left out would be taken for lost by the broker, and given to another worker."""
    life = ready()
    longest = [RequestId(b"r" * MAX_CLIENT, MAX_INT - n) for n in range(MAX_SLOTS)]
    for id in longest:
        life.hear("infer", id=id, attempt=1000)
    life.hear("heartbeat", n=MAX_INT)
    life.passes(0.1)
    (heartbeat,) = life.said("heartbeat")
    assert [id for id, _ in heartbeat["ids"]] == longest
    life.hear("infer", id=RequestId(b"c", 1), attempt=1)  # the broker has forgotten an older one
    life.passes(0.1)
    assert [id for id, _ in life.said("heartbeat")[0]["ids"]] == [*longest[1:], RequestId(b"c", 1)]


def test_who_is_answered_by_hello() -> None:
    life = ready()
    life.hear("who")
    (hello,) = life.said()
    assert (hello["kind"], hello["state"], hello["epoch"]) == ("hello", "ready", EPOCH)


def test_a_refusal_ends_it_and_one_unreadable_message_does_not() -> None:
    life = ready()
    life.hear("error", code="protocol_error", message="torn")
    assert exits(life.commands) == []
    assert "torn" in logged(life.commands)
    life.hear("error", code="worker_refused", message="use name=...")
    assert exits(life.commands) == [REFUSED]
    assert "use name=..." in logged(life.commands)
    assert life.tell(Tick(), Stop(), PolicyBroken("x")) == []


def test_an_unreadable_hello_ends_it() -> None:
    life = Life()
    life.tell(Tick())
    life.hear("error", code="protocol_error", message="policy")
    assert exits(life.commands) == [REFUSED]


def test_messages_without_their_fields_are_survived() -> None:
    life = ready()
    for kind in ("infer", "welcome", "heartbeat"):
        life.tell(Received({"v": 1, "kind": kind}))
        assert "lacks" in logged(life.commands)
    life.tell(Received({"v": 1, "kind": "pong"}))
    life.tell(Answered(given(life), RESULT, (b"actions",)))
    assert kinds(life.commands) == ["result"]


def test_a_policy_that_cannot_be_served_says_goodbye() -> None:
    life = welcomed()
    commands = life.tell(PolicyBroken("DeviceLost"))
    assert life.said("goodbye")[0]["message"] == "DeviceLost"
    assert exits(commands) == [BROKEN]


def test_draining_tells_the_broker_at_once_and_waits_for_two_of_its_beats() -> None:
    life = ready()
    life.hear("heartbeat", n=7)
    life.tell(Stop())
    assert life.said("heartbeat")[0]["state"] == "draining"
    crossed = given(life)  # sent before that was heard
    life.hear("heartbeat", n=8)
    life.tell(Answered(crossed, RESULT, (b"actions",)))
    assert kinds(life.commands) == ["result"]
    assert kinds(life.passes(0.2)) == ["heartbeat"] * 2
    life.hear("heartbeat", n=9)
    commands = life.passes(0.1)
    assert kinds(commands) == ["goodbye"]
    assert exits(commands) == [STOPPED]


def test_draining_that_begins_before_the_first_beat_waits_for_two_after_that() -> None:
    life = ready()  # of a broker that has counted for long
    life.tell(Stop())
    life.hear("heartbeat", n=1000)
    assert exits(life.passes(0.3)) == []
    life.hear("heartbeat", n=1002)
    assert exits(life.passes(0.1)) == [STOPPED]


def test_draining_ends_in_time_whatever_is_still_in_hand() -> None:
    life = ready()
    given(life)
    life.tell(Stop())
    began = life.now
    commands = life.passes(DRAIN_S + 1.0)
    assert exits(commands) == [STOPPED]
    assert kinds(commands)[-1] == "goodbye"
    life.now = began + DRAIN_S
    assert life.session.wake_at() <= began + DRAIN_S


def test_without_a_broker_there_is_nothing_to_drain() -> None:
    life = Life()
    life.tell(Tick())
    assert exits(life.tell(Stop())) == [STOPPED]


def test_stopped_twice_it_leaves_at_once() -> None:
    life = ready()
    given(life)
    assert exits(life.tell(Stop())) == []
    commands = life.tell(Stop())
    assert kinds(commands) == ["goodbye"]
    assert exits(commands) == [STOPPED]


def test_a_silent_broker_is_told_of_now_and_then() -> None:
    life = welcomed()
    assert logged(life.passes(SILENCE_S)) == ""
    assert logged(life.passes(SILENCE_S)).count("no word from a broker at tcp://there:1") == 1


def test_it_wakes_later_than_now_after_every_tick() -> None:
    life = ready()
    for _ in range(10):
        life.tell(Tick())
        assert life.session.wake_at() > life.now
        life.now = life.session.wake_at()


@pytest.mark.parametrize("seed", range(40))
def test_any_history_keeps_the_protocol(seed: int) -> None:
    """Whatever comes in whatever order: nothing is raised, all that is said can be read."""
    random = Random(seed)
    life, running = Life(), list[Header]()
    numbers = (None, 0, 1, 2**63 - 1)
    for _ in range(300):
        fields = {
            "epoch": random.choice((EPOCH, EPOCH, EPOCH + 1)),
            "id": RequestId(random.choice((b"c" * 16, b"r" * MAX_CLIENT)), random.randrange(90)),
            "attempt": random.choice((1, 1, 2)),
            "n": random.choice(numbers),
            "heartbeat_ms": random.choice((None, 1.0, 100.0)),
            "max_bytes": random.choice((None, 1, 1_000)),
            "code": random.choice((None, "protocol_error")),
        }
        told = {k: v for k, v in fields.items() if v is not None and random.random() < 0.95}
        kind = random.choice(("welcome", "infer", "infer", "infer", "heartbeat", "who", "error"))
        if kind == "error":
            kind = "error" if life.session.epoch is not None else "who"
            told["code"] = "protocol_error"  # any other ends it
        life.tell(Received({"v": 1, "kind": kind, **told}))
        running += [each.request for each in life.commands if isinstance(each, Run)]
        life.said()
        if running and random.random() < 0.6:
            request = running.pop(random.randrange(len(running)))
            life.tell(
                random.choice(
                    (
                        Answered(request, RESULT, (b"x" * random.choice((1, 2_000)),)),
                        Undecodable(request, ProtocolError("no body" * 500)),
                    )
                )
            )
            answers = [each for each in life.said() if each["kind"] in ("result", "failure")]
            assert len(answers) == (request["epoch"] == life.session.epoch)
        life.passes(random.choice((0.0, 0.0, 0.05, 0.2)))
        life.said()
        assert life.session.wake_at() > life.now - 1e-9
    for request in running:
        life.tell(Answered(request, RESULT, (b"",)))
    assert life.session.in_hand == {}


def test_a_retired_worker_drains_as_on_a_signal_and_once() -> None:
    life = ready()
    request = given(life)
    life.hear("retire")
    assert life.said("heartbeat")[0]["state"] == "draining"
    assert exits(life.hear("retire")) == []  # it is repeated until the broker hears of it
    life.tell(Answered(request, RESULT, (b"actions",)))
    assert kinds(life.commands) == ["result"]
    life.hear("heartbeat", n=5)
    life.hear("heartbeat", n=7)
    assert exits(life.passes(DRAIN_S)) == [STOPPED]


def test_a_retired_worker_takes_its_time_and_one_that_is_stopped_then_does_not() -> None:
    for is_stopped in (False, True):
        life = ready()
        given(life)
        life.hear("retire")
        commands = life.passes(DRAIN_S + 1.0)
        assert exits(commands) == []
        if is_stopped:
            assert exits(life.tell(Stop())) == []
        commands = life.passes(DRAIN_S if is_stopped else RETIRED_S)
        assert exits(commands) == [STOPPED]
        assert kinds(commands)[-1] == "goodbye"


def test_a_retired_worker_does_not_wait_long_for_another_broker_to_count_as_far() -> None:
    life = ready()
    life.hear("heartbeat", n=1000)
    life.hear("retire")
    life.hear("welcome", epoch=EPOCH + 1)
    life.hear("heartbeat", epoch=EPOCH + 1, n=2)
    life.hear("heartbeat", epoch=EPOCH + 1, n=4)
    assert exits(life.passes(DRAIN_S)) == [STOPPED]


def test_a_broker_that_is_no_more_cannot_retire_it() -> None:
    life = ready()
    life.hear("retire", epoch=EPOCH + 1)
    assert life.session.state == "ready"
