"""The report shows what there is, and stays small whatever there is."""

from __future__ import annotations

from typing import Any

from broker.config import BrokerConfig, Limits
from broker.core import Core
from broker.events import RobotMessage, ToRobot, WorkerMessage
from broker.telemetry import MOST_RULES
from client.body import decode_body
from client.wire import RequestId

CLIENT = b"c" * 16
_WORKER = b"w1234567"


def core(**limits: int) -> Core:
    return Core(BrokerConfig(limits=Limits(**limits)), 1, 0.0)


def worker(core: Core, kind: str, now: float, **fields: object) -> None:
    header = {"v": 1, "kind": kind, "epoch": 1, **fields}
    core.handle(WorkerMessage(_WORKER, header, [b"\x80"]), now)


def infer(core: Core, client: bytes, sequence: int, now: float, **fields: object) -> list[ToRobot]:
    header = {"v": 1, "kind": "infer", "id": RequestId(client, sequence), **fields}
    message = RobotMessage(client, [client, b""], header, [b"body"], "a key")
    return [each for each in core.handle(message, now) if isinstance(each, ToRobot)]


def status(core: Core, now: float) -> dict[str, object]:
    message = RobotMessage(b"op", [b"op", b""], {"v": 1, "kind": "status"}, [])
    (answer,) = (each for each in core.handle(message, now) if isinstance(each, ToRobot))
    assert answer.header["kind"] == "pong"
    assert sum(map(len, answer.payload)) < 250_000
    return decode_body(answer.payload)


def test_it_shows_workers_robots_queues_and_latencies() -> None:
    broker = core()
    worker(broker, "hello", 0.0, policy="aloha", incarnation=b"i" * 16)
    worker(broker, "ready", 0.0, slots=1, inference_ms=50.0)
    infer(broker, CLIENT, 1, 1.0, robot="arm", policy="aloha", session="one")
    infer(broker, CLIENT, 2, 1.0, robot="arm", policy="aloha", session="two")
    seen = status(broker, 1.5)
    assert seen["workers"] == [
        {
            "name": "aloha",
            "id": _WORKER.hex()[:8],
            "state": "ready",
            "slots": 1,
            "in_hand": 1,
            "robots": ["arm"],
            "mean_ms": 50.0,
            "heard_ms_ago": 1500.0,
        }
    ]
    assert seen["robots"] == [
        {
            "name": "arm",
            "key": "a key",
            "id": CLIENT.hex()[:8],
            "policy": "aloha",
            "requests": 2,
            "held": 0,
            "waiting": 1,
            "in_hand": 1,
            "seen_s_ago": 0.5,
            "timing": {},
        }
    ]
    assert seen["queues"] == {"aloha": 1}
    for sequence, took in ((1, 0.020), (2, 0.040)):
        worker(broker, "result", 1.5 + took, id=RequestId(CLIENT, sequence), attempt=1)
    seen = status(broker, 1.6)
    assert seen["latency_ms"] == {
        "queue": {"p50": 0.0, "p95": 520.0, "max": 520.0, "count": 2.0},
        "worker": {"p50": 20.0, "p95": 520.0, "max": 520.0, "count": 2.0},
    }
    assert seen["queues"] == {}
    counters = seen["counters"]
    assert isinstance(counters, dict)
    assert counters["answered"] == 2


def test_latencies_are_told_by_policy_of_live_requests_only() -> None:
    broker = core()
    worker(broker, "hello", 0.0, policy="aloha", incarnation=b"i" * 16)
    worker(broker, "ready", 0.0, slots=1, inference_ms=50.0)
    infer(broker, CLIENT, 1, 1.0, policy="aloha", session="one")
    infer(broker, CLIENT, 2, 1.0, policy="aloha", session="two")
    infer(broker, b"e" * 16, 3, 1.0, policy="aloha", traffic="evaluation")
    for client, sequence, at in ((CLIENT, 1, 1.02), (CLIENT, 2, 1.06), (b"e" * 16, 3, 1.5)):
        worker(broker, "result", at, id=RequestId(client, sequence), attempt=1)
    policies: Any = status(broker, 2.0)["policies"]
    wanted = {"p50": 20.0, "p95": 60.0, "max": 60.0, "count": 2.0}
    assert policies["aloha"]["latency_ms"] == wanted
    policies = status(broker, 63.0)["policies"]
    assert "latency_ms" not in policies["aloha"]  # none in the last minute


def test_a_robot_is_shown_as_it_last_asked() -> None:
    broker = core()
    worker(broker, "hello", 0.0, policy="aloha", incarnation=b"i" * 16)
    infer(broker, CLIENT, 1, 1.0, robot="arm", policy="droid")
    infer(broker, CLIENT, 2, 2.0, robot="left arm", policy="aloha")
    robots = status(broker, 2.0)["robots"]
    assert isinstance(robots, list)
    assert [(robot["name"], robot["policy"]) for robot in robots] == [("left arm", "aloha")]
    infer(broker, CLIENT, 3, 2.0, robot="left arm")
    robots = status(broker, 2.0)["robots"]
    assert isinstance(robots, list)
    assert robots[0]["policy"] == ""


def test_outcomes_stages_and_batches_are_told_by_policy() -> None:
    broker = core()
    worker(broker, "hello", 0.0, policy="aloha", incarnation=b"i" * 16)
    worker(broker, "ready", 0.0, slots=2, inference_ms=50.0)
    for sequence in (1, 2):
        infer(broker, CLIENT, sequence, 1.0, robot="arm", policy="aloha", session=str(sequence))
    done = {"attempt": 1, "timing": {"infer_ms": 3.0, "decode_ms": 1.0}}
    worker(broker, "result", 1.02, id=RequestId(CLIENT, 1), batch=2, **done)
    worker(broker, "failure", 1.02, id=RequestId(CLIENT, 2), attempt=1, code="policy_failed")
    seen = status(broker, 1.1)
    policies = seen["policies"]
    assert isinstance(policies, dict)
    told = policies["aloha"]
    assert told["outcomes"] == {"answered": 1, "failed": 1}
    assert told["batches"] == {"2": 1}
    assert set(told["stages"]) == {"queue", "worker", "infer", "decode"}
    buckets = seen["buckets_ms"]
    assert isinstance(buckets, list)
    assert len(told["stages"]["infer"]["counts"]) == len(buckets) + 1
    assert told["stages"]["infer"]["counts"][buckets.index(5.0)] == 1  # 3 ms: from 2.5 to 5
    assert told["stages"]["decode"]["counts"][buckets.index(1.0)] == 1  # both ends belong
    assert told["stages"]["worker"]["sum_ms"] == 20.0
    robots = seen["robots"]
    assert isinstance(robots, list)
    assert robots[0]["timing"] == {
        "queue_ms": 0.0,
        "worker_ms": 20.0,
        "decode_ms": 1.0,
        "infer_ms": 3.0,
    }


def test_held_steps_are_counted_by_robot_and_policy() -> None:
    broker = core()
    worker(broker, "hello", 0.0, policy="aloha", incarnation=b"i" * 16)

    def asks(sequence: int, client: bytes = CLIENT, **fields: object) -> tuple[object, object]:
        infer(broker, client, sequence, 1.0, policy="aloha", **fields)
        seen: dict[str, Any] = status(broker, 1.0)
        return seen["robots"][0]["held"], seen["policies"].get("aloha", {}).get("held", 0)

    assert asks(1) == (0, 0)  # a client that does not tell
    assert asks(2, held=3) == (3, 3)
    assert asks(2, held=9) == (3, 3)  # the same request again
    assert asks(3, held=3) == (3, 3)
    assert asks(4, held=5) == (5, 5)
    assert asks(5, held=1) == (1, 6)  # another loop of the same client
    # What a robot held before this broker knew of it is the robot's count, and not the policy's.
    assert asks(1, b"other".ljust(16), held=100) == (100, 6)
    assert asks(2, b"other".ljust(16), held=101) == (101, 7)


def test_what_guards_did_is_counted_by_policy_and_rule_within_bounds() -> None:
    broker = core()
    worker(broker, "hello", 0.0, policy="aloha", incarnation=b"i" * 16)
    worker(broker, "ready", 0.0, slots=64, inference_ms=50.0)

    def guards(sequence: int, kind: str, breaches: dict[str, int], **fields: object) -> Any:
        infer(broker, CLIENT, sequence, 1.0, policy="aloha", session=str(sequence))
        id = RequestId(CLIENT, sequence)
        worker(broker, kind, 1.1, id=id, attempt=1, breaches=breaches, **fields)
        policies: Any = status(broker, 1.1)["policies"]
        return policies["aloha"]["guards"]

    assert guards(1, "result", {"waist/rate": 3})["clipped"] == {"waist/rate": 3}
    seen = guards(2, "result", {"waist/rate": 1, "wrist/limits": 2})
    assert seen == {"clipped": {"waist/rate": 4, "wrist/limits": 2}, "refused": {}}
    seen = guards(3, "failure", {"wrist/finite": 5}, code="guard_breached")
    assert seen["refused"] == {"wrist/finite": 5}
    for number in range(4, 12):  # a worker that makes up names does not fill the broker
        seen = guards(number, "result", {f"{number}/{rule}": 1 for rule in range(32)})
    assert len(seen["clipped"]) == MOST_RULES
    assert seen["clipped"]["waist/rate"] == 4


def test_the_latest_errors_are_told_but_not_those_of_every_day() -> None:
    broker = core()
    worker(broker, "hello", 0.0, policy="aloha", incarnation=b"i" * 16)
    for sequence in range(1, 101):  # all but the last are superseded
        infer(broker, CLIENT, sequence, 5.0, robot="arm", policy="aloha", session="one")
    assert status(broker, 5.0)["errors"] == []
    for sequence in range(1, 101):
        infer(broker, b"other".ljust(16), sequence, 5.0, robot="leg", policy="nothing such")
    errors = status(broker, 5.0)["errors"]
    assert isinstance(errors, list)
    assert len(errors) == 50
    assert errors[-1]["number"] == 100
    assert errors[-1]["robot"] == "leg"
    assert errors[-1]["code"] == "unknown_policy"


def test_latencies_are_forgotten_after_a_minute() -> None:
    broker = core()
    timing = {"queue_ms": 1.0, "worker_ms": 2.0}
    broker.telemetry.answered(CLIENT, "aloha", timing, batch=1, size=0, now=10.0)
    nothing = {"p50": 0.0, "p95": 0.0, "max": 0.0, "count": 0.0}
    assert status(broker, 69.0)["latency_ms"] != {"queue": nothing, "worker": nothing}
    assert status(broker, 71.0)["latency_ms"] == {"queue": nothing, "worker": nothing}


def test_it_stays_small_with_many_of_everything() -> None:
    broker = core(max_requests_per_robot=1_000)
    for number in range(600):
        routing_id = b"w%d" % number
        header = {"v": 1, "kind": "hello", "policy": f"{number:0128}", "incarnation": b"i" * 16}
        broker.handle(WorkerMessage(routing_id, header, [b"\x80"]), 0.0)
        infer(broker, b"%016d" % number, 1, 0.0, robot="r" * 128, policy=f"{number:0128}")
    seen = status(broker, 0.0)
    assert seen["workers_in_all"] == 600
    for rows in (seen["workers"], seen["robots"], seen["queues"]):
        assert isinstance(rows, (list, dict))
        assert len(rows) == 256
    assert isinstance(seen["robots"], list)
    assert seen["robots"][0]["id"] == (b"%016d" % 599).hex()[:8]


def test_one_robot_cannot_fill_the_broker() -> None:
    broker = core(max_requests_per_robot=2, max_requests=100)
    worker(broker, "hello", 0.0, policy="aloha", incarnation=b"i" * 16)
    for sequence in (1, 2):
        assert not infer(broker, CLIENT, sequence, 0.0, session=str(sequence))
    (refused,) = infer(broker, CLIENT, 3, 0.0, session="3")
    assert refused.header["code"] == "overloaded"
    assert "max_requests_per_robot" in refused.header["message"]
    assert refused.header["retry_after_ms"] > 0


def test_it_tells_what_whoever_starts_workers_has_to_know() -> None:
    broker = Core(BrokerConfig(policies=["droid"]), 1, 0.0)
    nothing = {"waiting": 0, "wait_ms": 0.0, "workers": 0, "ready": 0, "slots": 0, "in_hand": 0}
    assert status(broker, 1.0)["demand"] == {"droid": {**nothing, "asked_s_ago": None}}
    infer(broker, CLIENT, 1, 3.0, policy="droid")
    asleep = {**nothing, "waiting": 1, "asked_s_ago": 0.5}
    assert status(broker, 3.5)["demand"] == {"droid": asleep}
    worker(broker, "hello", 3.5, policy="droid", incarnation=b"i" * 16)
    assert status(broker, 3.5)["demand"] == {"droid": {**asleep, "workers": 1}}
    worker(broker, "ready", 3.5, slots=1, inference_ms=50.0)
    infer(broker, CLIENT, 2, 3.6, policy="droid", session="another")
    assert status(broker, 3.6)["demand"] == {
        "droid": {
            "waiting": 1,
            "wait_ms": 50.0,
            "asked_s_ago": 0.0,
            "workers": 1,
            "ready": 1,
            "slots": 1,
            "in_hand": 1,
        }
    }


def test_who_asks_for_names_without_end_is_not_remembered_by_them() -> None:
    broker = Core(BrokerConfig(policies=["droid"]), 1, 0.0)
    for number in range(1000):
        infer(broker, CLIENT, number, 5.0, policy=f"droid {number}")
    assert broker.telemetry.asked_at == {}
