"""Whether the broker in use hangs, while its answer is awaited and there are other brokers.

A process that is stopped keeps its connections, because its kernel still acknowledges what is sent.
Silence alone says nothing either, as an inference may take long. So after a silence, the broker in
use and all others are sent a `ping`, each on a connection of its own. A broker answers that at
once, whatever its workers do. The one in use is taken to hang if another one answers and has a
ready worker, while it has not answered itself in twice that time and a moment more. So a delay that
all questions of this host share, such as a long upload on a slow link, decides nothing.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Callable, Sequence

from client import errors
from client.body import decode_body
from client.connection import Connection
from client.route import serves
from client.wire import TO_CLIENT, Frame, Header, decode_header, encode_header

SILENCE_S = 1.0  # before the first question; it doubles after each that was answered
SHARE = 0.25  # of the time that is left, if that is shorter than these
PATIENCE_S = 0.25


def patience_s(left_s: float) -> float:
    """How long to wait for the broker in use, beyond twice what another one took."""
    return min(PATIENCE_S, SHARE * left_s)


def first_silence_s(left_s: float) -> float:
    """How long to wait for an answer that has `left_s` seconds, before anybody is asked."""
    return min(SILENCE_S, SHARE * left_s)


def question(fields: Header) -> list[bytes]:
    """A client's `ping` with these header fields; it belongs to no call and so has no id."""
    return [encode_header({**fields, "kind": "ping"})]


def may_take_over(frames: Sequence[Frame], policy: str | None) -> bool:
    """Whether an answer is a broker's pong and says that a worker of `policy` is ready."""
    try:
        is_pong = decode_header(frames[0], TO_CLIENT)["kind"] == "pong"
        return is_pong and serves(decode_body(frames[1:]), policy)
    except errors.PolicyError:
        return False


def hangs(
    used: Connection,
    others: Sequence[str],
    connect: Callable[[str], Connection],
    fields: Header,
    until: float,
) -> bool:
    """Ask all brokers, and return as soon as it is known, at the latest at `until`.

    The result is also False if the awaited answer comes, if its connection has other news, or if no
    connection can be made.

    Args:
        used: the connection to the broker in use, on which its answer is awaited.
        others: the endpoints of those that could be used instead.
        connect: begins to connect to one.
        fields: what the client writes into every header.
        until: `time.monotonic()` value.
    """
    began = time.monotonic()
    give_up, is_other_there = until, False
    asking = question(fields)
    with ExitStack() as opened:
        asked = []
        try:
            for endpoint in (used.endpoint, *others):
                asked.append(connect(endpoint))
                opened.callback(asked[-1].close)
        except errors.BrokerUnreachable:  # this process has no socket left
            return False
        unsent, silent = list(asked), []
        while True:
            now = time.monotonic()
            for each in list(unsent):
                if each.is_up() and each.send(asking, now, is_only=False):
                    unsent.remove(each)
                    silent.append(each)
            for each in list(silent):
                frames = each.receive(now)
                if frames is None:
                    continue
                silent.remove(each)
                if each is asked[0]:
                    return False
                if not is_other_there and may_take_over(frames, fields.get("policy")):
                    is_other_there = True
                    give_up = min(until, now + (now - began) + patience_s(until - began))
            if now >= give_up or used.has_news([*unsent, *silent], give_up):
                return is_other_there and now >= give_up
