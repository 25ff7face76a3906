"""The report shows what there is, and stays small whatever there is."""

from __future__ import annotations

from broker.config import BrokerConfig, Limits
from broker.core import Core
from broker.events import RobotMessage, ToRobot, WorkerMessage
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
    assert sum(map(len, answer.payload)) < 200_000
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
            "waiting": 1,
            "in_hand": 1,
            "seen_s_ago": 0.5,
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


def test_latencies_are_forgotten_after_a_minute() -> None:
    broker = core()
    broker.telemetry.answered(1.0, 2.0, now=10.0)
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
