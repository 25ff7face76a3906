"""Simulated connections do what TCP and ZeroMQ do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.clock import Clock
from tests.simulation.network import Connection, Link, Message, Socket


class Ends:
    """Both ends of everything: a broker that accepts, and a peer that notes what it is told."""

    listening = answering = True

    def __init__(self) -> None:
        self.clock = Clock()
        self.link = Link(self.clock, "peer", 0.001, 0.5, seed=1)
        self.accepted: list[Connection] = []
        self.heard: list[bytes] = []  # by either end
        self.lost_at: dict[str, float] = {}
        self.socket = Socket(self, self.link, self, "workers")
        self.clock.run_until(0.1)

    def connected(self, socket: Socket) -> None:
        self.heard.append(b"connected")

    def receive(self, socket: Socket, message: Message, note: Any) -> None:
        self.heard.append(message[0])

    def disconnected(self, socket: Socket) -> None:
        self.lost_at["peer"] = self.clock.now

    def missed(self, socket: Socket, message: Message) -> None:
        self.heard.append(b"missed " + message[0])

    def accept(self, connection: Connection) -> None:
        self.accepted.append(connection)

    def take(self, connection: Connection, message: Message) -> None:
        self.heard.append(message[0])

    def lost(self, connection: Connection, hint: str) -> None:
        self.lost_at["broker"] = self.clock.now


@pytest.fixture
def ends() -> Ends:
    """A peer that is connected."""
    return Ends()


def test_order_is_kept_whatever_each_message_takes(ends: Ends) -> None:
    sent = [b"%d" % number for number in range(50)]
    for frame in sent:
        ends.socket.send([frame])
    ends.clock.run_until(1.0)
    assert ends.heard == [b"connected", *sent]


def test_what_is_under_way_at_a_cut_still_comes_and_nothing_after(ends: Ends) -> None:
    ends.socket.send([b"before"])
    ends.accepted[0].cut(peer_after_s=0.05, broker_after_s=0.02, hint="right")
    ends.socket.send([b"after"])
    ends.clock.run_until(0.2)
    assert ends.heard == [b"connected", b"before", b"connected"]
    assert ends.lost_at == pytest.approx({"broker": 0.12, "peer": 0.15})
    assert len(ends.accepted) == 2


def test_a_short_blockade_only_delays(ends: Ends) -> None:
    ends.link.block()
    ends.socket.send([b"held"])
    ends.clock.run_until(0.3)
    assert ends.heard == [b"connected"]
    ends.link.unblock()
    ends.clock.run_until(0.4)
    assert ends.heard == [b"connected", b"held"]
    assert ends.lost_at == {}


def test_a_long_one_is_given_up_by_both_ends(ends: Ends) -> None:
    ends.link.block()
    ends.clock.run_until(1.0)
    assert ends.lost_at.keys() == {"peer", "broker"}
    assert not ends.socket.is_connected
    ends.link.unblock()
    ends.clock.run_until(2.5)
    assert ends.socket.is_connected


def test_a_stopped_process_gets_everything_when_it_goes_on(ends: Ends) -> None:
    ends.socket.freeze()
    ends.accepted[0].send(False, [b"late"])
    ends.clock.run_until(0.5)
    assert ends.heard == [b"connected"]
    ends.socket.thaw()
    assert ends.heard == [b"connected", b"late"]


def test_closing_is_heard_behind_what_was_sent(ends: Ends) -> None:
    ends.socket.send([b"last"])
    ends.socket.close()
    assert not ends.socket.send([b"too late"])
    ends.clock.run_until(0.5)
    assert ends.heard == [b"connected", b"last"]
    assert ends.lost_at.keys() == {"broker"}
