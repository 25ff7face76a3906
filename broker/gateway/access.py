"""Api-Keys: which client is which robot, and what it may ask for.

The file is JSON, readable by its owner only. Each entry is a robot, or an operator who may see the
page:

    {"arm-1": {"api_key": "…", "policies": ["aloha"]},
     "ward":  {"api_key": "…", "role": "operator"}}

`policies` may be left out: then all may be asked for. A robot whose key is for one policy need not
name it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import errors
from client.keys import read_json
from client.wire import MAX_NAME

_SHORTEST_KEY = 16  # characters; fewer can be tried out
_FIELDS = {"api_key", "policies", "role", "mapping"}
ROBOT, OPERATOR = "robot", "operator"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is. `policies` that it may ask for, None: all. `mapping`: of its own, if any."""

    name: str = ""
    policies: tuple[str, ...] | None = None
    role: str = OPERATOR
    mapping: str | None = None

    def policy(self, asked: str | None, usual: str | None) -> str | None:
        """The policy that it gets: the one that it asks for, its only one, or the usual one.

        Raises:
            Forbidden: its key is for others.
        """
        if self.policies is None:
            return asked or usual
        if asked is None and len(self.policies) == 1:
            return self.policies[0]
        chosen = asked or usual
        if chosen not in self.policies:
            raise errors.Forbidden(
                f"the Api-Key of {self.name!r} is for {', '.join(self.policies) or 'no policy'}"
                + (f", not for {chosen!r}" if chosen else ": name one of them")
            )
        return chosen


ANYONE = Identity()  # where no Api-Keys are asked for


class ApiKeys:
    """All Api-Keys; without a file, everyone is let in as `ANYONE`."""

    def __init__(self, path: str | None) -> None:
        """Read the file.

        Raises:
            ValueError: it is not valid; the message names the entry.
        """
        self._keys: dict[bytes, Identity] = {}
        self.are_asked_for = path is not None
        if path is not None:
            for name, entry in read_json(Path(path)).items():
                key, identity = _read_entry(path, name, entry)
                if key in self._keys:
                    raise ValueError(f"{path}: {name} and {self._keys[key].name} have one api_key")
                self._keys[key] = identity

    @property
    def identities(self) -> list[Identity]:
        """All that the file has."""
        return list(self._keys.values())

    def identify(self, shown: str | None) -> Identity:
        """Who shows this key.

        Raises:
            Forbidden: it is unknown, or none was shown.
        """
        if not self.are_asked_for:
            return ANYONE
        given = (shown or "").encode("utf-8", "replace")
        # All are compared, and in constant time, so that no answer's delay tells of a key.
        found = [who for key, who in self._keys.items() if hmac.compare_digest(key, given)]
        if not found:
            raise errors.Forbidden(
                "this Api-Key is unknown to the gateway: see its file api_keys"
                if shown
                else "the gateway asks for an Api-Key: send the header 'Authorization: Api-Key KEY'"
            )
        return found[0]

    def identify_header(self, authorization: str | None) -> Identity:
        """Who sends this `Authorization` header: `Api-Key KEY` or `Bearer KEY`.

        Raises:
            Forbidden: the key is unknown, or none was sent.
        """
        scheme, _, key = (authorization or "").strip().partition(" ")
        is_key = scheme.lower() in ("api-key", "bearer")
        return self.identify(key.strip() if is_key else None)


def _read_entry(path: str, name: str, entry: Any) -> tuple[bytes, Identity]:
    where = f"{path}: {name}"
    if not 0 < len(name) <= MAX_NAME or not isinstance(entry, Mapping):
        raise ValueError(f"{where}: an entry is NAME: {{'api_key': ..., 'policies': [...]}}")
    unknown = set(entry) - _FIELDS
    if unknown:
        raise ValueError(f"{where}: unknown {', '.join(sorted(unknown))}; known are {_FIELDS}")
    key, policies, role = entry.get("api_key"), entry.get("policies"), entry.get("role", ROBOT)
    if not isinstance(key, str) or len(key) < _SHORTEST_KEY:
        raise ValueError(f"{where}: api_key must be a text of {_SHORTEST_KEY} characters or more")
    if policies is not None:
        if not isinstance(policies, list) or not all(isinstance(each, str) for each in policies):
            raise ValueError(f"{where}: policies must be a list of names, or be left out for all")
        policies = tuple(policies)
    if role not in (ROBOT, OPERATOR):
        raise ValueError(f"{where}: role {role!r:.40} is not one of {ROBOT}, {OPERATOR}")
    mapping = entry.get("mapping")
    if mapping is not None and not isinstance(mapping, str):
        raise ValueError(f"{where}: mapping must be the name of a file in conf/mapping, or a path")
    return key.encode("utf-8"), Identity(name, policies, role, mapping)
