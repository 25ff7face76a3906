"""RoboArena's WebSocket: openpi's, whose first message describes the robot, with session ids.

    message                    answer
    endpoint infer             {"actions": (N, 8 or 7)}, or the bare array where `bare` is set
    endpoint reset             a text
    any error                  one line of text

Each `session_id` of a connection is a robot's session of its own with the broker, so that several
evaluations may share a connection. The session that was used longest ago is ended for a new one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection

from broker.gateway import arrays
from broker.gateway.access import Identity
from broker.gateway.config import RoboarenaSettings
from broker.gateway.gateway import Gateway
from broker.gateway.mapping import flatten
from broker.gateway.sessions import RobotSession
from broker.gateway.websocket import closing_with, one_line, send, serve_websocket
from client import errors

NAME = "roboarena"
_LONGEST_ID = 128  # characters of a session id
_ENVELOPE = ("endpoint", "session_id", "seed")


@asynccontextmanager
async def listen(gateway: Gateway, settings: RoboarenaSettings) -> AsyncIterator[None]:
    """Serve RoboArena's clients.

    Raises:
        OSError: the address cannot be bound.
    """

    async def talk(connection: ServerConnection, identity: Identity) -> None:
        sessions = _Sessions(gateway, settings, identity)
        try:
            async with (
                gateway.open_robot(identity, NAME) as first,
                closing_with(first, connection),
            ):
                sessions.robots[""] = first
                await first.metadata()
                await send(gateway, NAME, connection, arrays.encode(_description(settings)))
                async for message in connection:
                    gateway.metrics.received(NAME, len(message))
                    answer = await sessions.answer(message, connection)
                    await send(gateway, NAME, connection, answer)
        finally:
            sessions.close()

    async with serve_websocket(gateway, NAME, settings, talk):
        yield


class _Sessions:
    """The sessions of one connection, the one that was used last at the end."""

    def __init__(self, gateway: Gateway, settings: RoboarenaSettings, identity: Identity) -> None:
        self._gateway, self._settings, self._identity = gateway, settings, identity
        self._mapping = gateway.mapping(identity, NAME)
        self.robots: dict[str, RobotSession] = {}

    def close(self) -> None:
        """End all."""
        for robot in self.robots.values():
            robot.close()

    async def answer(self, message: str | bytes, connection: ServerConnection) -> str | bytes:
        """The answer to one message."""
        try:
            found = parse(message, needs_session=self._settings.needs_session_id)
            robot = self._robot(found.get("session_id") or "")
            async with closing_with(robot, connection):
                if found.get("endpoint") == "reset":
                    await robot.reset()
                    return "reset successful"
                seed = found.get("seed")
                theirs = {key: value for key, value in found.items() if key not in _ENVELOPE}
                is_mapped = bool(self._mapping.observation)
                ours = self._mapping.to_ours(flatten(theirs) if is_mapped else theirs)
                result = await robot.infer(ours, seed=seed)
            actions = np.asarray(result["actions"])
            return arrays.encode(actions if self._settings.bare else {"actions": actions})
        except errors.ClientClosed:
            raise
        except errors.PolicyError as error:
            return one_line(error)

    def _robot(self, session: str) -> RobotSession:
        robot = self.robots.pop(session, None)
        if robot is None:
            if len(self.robots) >= self._settings.sessions:
                self.robots.pop(next(iter(self.robots))).close()
            robot = self._gateway.open_robot(self._identity, NAME)
        self.robots[session] = robot
        return robot


def parse(message: str | bytes, *, needs_session: bool) -> dict[str, Any]:
    """A message's map, whose envelope is checked.

    Raises:
        ProtocolError: it is no binary message of a map, or its endpoint is unknown.
        BadObservation: its session id is none.
    """
    if isinstance(message, str):
        raise errors.ProtocolError("a text came: messages are binary, of msgpack")
    found = arrays.decode(message)
    if not isinstance(found, dict):
        raise errors.ProtocolError(f"a {type(found).__name__} came: a msgpack map is expected")
    endpoint = found.get("endpoint", "infer")
    if endpoint not in ("infer", "reset"):
        raise errors.ProtocolError(f"endpoint {endpoint!r:.40} is unknown: infer or reset")
    session = found.get("session_id")
    is_missing = session is None and not (needs_session and endpoint == "infer")
    if not is_missing and not (isinstance(session, str) and len(session) <= _LONGEST_ID):
        raise errors.BadObservation(
            f"session_id is {session!r:.40}: a text of at most {_LONGEST_ID} characters is expected"
        )
    return found


def _description(settings: RoboarenaSettings) -> dict[str, Any]:
    return {
        "image_resolution": settings.image_resolution,
        "needs_wrist_camera": settings.needs_wrist_camera,
        "n_external_cameras": settings.n_external_cameras,
        "needs_stereo_camera": settings.needs_stereo_camera,
        "needs_session_id": settings.needs_session_id,
        "action_space": settings.action_space,
    }
