"""The order between lanes: weights hold in the long run, nobody starves, one lane is no lane."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.agenda import Agenda
from broker.config import FairnessConfig
from broker.fairness import Fairness
from broker.requests import Request, WaitingRoom
from broker.shares import USUAL, FairQueue, Lane, Shares
from client.wire import RequestId

weights = st.sampled_from([0.5, 1.0, 2.0, 3.0])
costs = st.floats(0.2, 3.0)
turns = st.tuples(st.integers(0, 2), st.floats(0.0, 9.0))


@dataclass(eq=False)
class Item:
    """Something that waits."""

    lane: Lane
    turn: tuple[int, float] = (1, 0.0)


def serve_one(queue: FairQueue) -> Item:
    """A single worker, and every inference takes a second."""
    item: Item = queue.pop(1)
    queue.shares.lease(item.lane, 1.0)
    queue.shares.release(item.lane)
    return item


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(weights, costs), min_size=2, max_size=5), st.integers(1, 6), weights)
def test_lanes_that_always_wait_share_by_weight(
    teams: list[tuple[float, float]], slots: int, expected_s: float
) -> None:
    lanes = [Lane(str(number), False, weight) for number, (weight, _) in enumerate(teams)]
    cost = {lane: took for lane, (_, took) in zip(lanes, teams, strict=True)}
    queue, had = FairQueue(Shares(0.1, 0), Agenda()), dict.fromkeys(lanes, 0.0)
    for lane in lanes:
        for _ in range(2):
            queue.add((1, 0.0), Item(lane))
    running: list[tuple[float, int, Lane]] = []
    now = 0.0
    for number in range(400):
        while len(running) < slots:
            lane = queue.pop(slots).lane
            queue.add((1, 0.0), Item(lane))
            queue.shares.lease(lane, expected_s)
            heapq.heappush(running, (now + cost[lane], number * 10 + len(running), lane))
        now, _, lane = heapq.heappop(running)
        queue.shares.release(lane)
        queue.shares.correct(lane, expected_s, cost[lane])
        had[lane] += min(cost[lane], 4.0 * expected_s) / lane.weight
    # What is under way is charged by what was expected; one more of each may have come before.
    dearest = max(expected_s, *cost.values())
    most = (slots + 1) * dearest * 2.0 / min(lane.weight for lane in lanes)
    assert max(had.values()) - min(had.values()) <= most


@given(st.floats(0.02, 0.5), st.integers(1, 3), st.integers(1, 3))
def test_evaluation_gets_its_share_beside_live_robots_that_want_everything(
    share: float, live: int, evaluations: int
) -> None:
    queue = FairQueue(Shares(share, 0), Agenda())
    lanes = [Lane(f"{number}", False) for number in range(live)]
    lanes += [Lane(f"{number}", True) for number in range(evaluations)]
    for lane in lanes:
        queue.add((1, 0.0), Item(lane))
    since, served = 0, 0
    for _ in range(200):
        lane = serve_one(queue).lane
        queue.add((1, 0.0), Item(lane))
        since = 0 if lane.is_evaluation else since + 1
        served += lane.is_evaluation
        assert since <= math.ceil((1.0 - share) / share - 1e-9)
    assert served <= 200 * share + 1  # and no more, which would be at the cost of live robots


def test_without_a_share_live_robots_always_go_first() -> None:
    queue = FairQueue(Shares(0.0, 0), Agenda())
    queue.add((0, 0.0), Item(Lane("", True)))
    for _ in range(300):
        queue.add((9, 9.0), Item(USUAL))
        assert serve_one(queue).lane is USUAL
    assert serve_one(queue).lane.is_evaluation


@given(st.lists(turns, max_size=30))
def test_within_a_lane_it_is_priority_and_deadline(waiting: list[tuple[int, float]]) -> None:
    queue, lane = FairQueue(Shares(0.1, 0), Agenda()), Lane("x", True)
    items = [Item(lane, turn) for turn in waiting]
    for item in items:
        queue.add(item.turn, item)
    assert [queue.pop(1) for _ in items] == sorted(items, key=lambda item: item.turn)
    assert not queue
    assert not queue.lanes


@given(st.lists(turns, max_size=30))
def test_without_teams_the_order_is_priority_and_deadline_alone(
    waiting: list[tuple[int, float]],
) -> None:
    room, fairness = waiting_room()
    requests = [request(number, turn) for number, turn in enumerate(waiting)]
    for each in requests:
        room.add(each)
    assert all(isinstance(queue, Agenda) for queue in room.queues.values())
    taken = [room.take("p") for _ in requests]
    assert taken == sorted(requests, key=lambda each: each.turn)
    assert not fairness.shares
    assert not room.queues


@given(st.lists(turns, max_size=9), st.lists(turns, min_size=1, max_size=9))
def test_what_waits_already_keeps_its_order_when_another_lane_comes(
    before: list[tuple[int, float]], after: list[tuple[int, float]]
) -> None:
    room, fairness = waiting_room()
    lane = fairness.lane("", "evaluation")
    usual = [request(number, turn) for number, turn in enumerate(before)]
    evaluations = [request(100 + number, turn, lane) for number, turn in enumerate(after)]
    for each in (*usual, *evaluations):
        room.add(each)
    taken = [room.take("p", 1) for _ in range(len(usual) + len(evaluations))]
    assert [each for each in taken if each in usual] == sorted(usual, key=lambda each: each.turn)
    assert taken == [
        *sorted(usual, key=lambda each: each.turn),
        *sorted(evaluations, key=lambda each: each.turn),
    ]


@given(st.lists(st.tuples(st.integers(0, 2), turns), max_size=20), st.integers(0, 2), turns)
def test_how_many_are_before_a_request_is_foreseen(
    waiting: list[tuple[int, tuple[int, float]]], own: int, turn: tuple[int, float]
) -> None:
    lanes = [Lane("a", False), Lane("b", False, 2.0), Lane("c", False, 0.5)]
    queue = FairQueue(Shares(0.1, 0), Agenda())
    for number, each in waiting:
        queue.add(each, Item(lanes[number], each))
    queue.shares.lease(lanes[0], 1.0)
    item = Item(lanes[own], turn)
    foreseen = queue.count_before(item)
    queue.add(turn, item)
    before = 0
    while serve_one(queue) is not item:
        before += 1
    assert abs(before - foreseen) <= len(lanes)  # two that had the same may go either way


def test_a_lane_saves_nothing_while_it_asks_for_nothing() -> None:
    queue, busy, back = (
        FairQueue(Shares(0.1, 0), Agenda()),
        Lane("busy", False),
        Lane("back", False),
    )
    for _ in range(100):
        queue.add((1, 0.0), Item(busy))
    for _ in range(50):
        serve_one(queue)
    for _ in range(20):
        queue.add((1, 0.0), Item(back))
    assert 9 <= sum(serve_one(queue).lane is back for _ in range(20)) <= 11


def waiting_room() -> tuple[WaitingRoom, Fairness]:
    fairness = Fairness(FairnessConfig(), {})
    return WaitingRoom(fairness), fairness


def request(number: int, turn: tuple[int, float], lane: Lane = USUAL) -> Request:
    priority, deadline = turn
    header = {"priority": priority, "session": str(number)}
    return Request(RequestId(b"c", number), (), header, (), 0, "p", 0.0, deadline, b"", lane)
