"""Permissions: which keys may connect where, and what they may ask for or serve.

Only the two functions that read files do any I/O.

A folder of keys, as `python -m scripts.keys` makes it, holds the broker's own pair
(`broker.key`) and one `NAME.json` for every peer that may connect:

    {"name": "arm-1", "role": "robot", "policies": ["aloha"] or null for all, "public_key": Z85}

A peer is identified by its public key: whoever gets a new key is another peer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from client import errors
from client.keys import check_pair, read_json, z85_field
from client.names import base_of
from client.wire import Header

BROKER_FILE = "broker.key"
FRONTEND, BACKEND = "frontend", "backend"
_OPERATORS = ("status", "rollout")  # kinds that only they may send
_MAX_CLIENTS = 256  # client uuids bound to one key; then the oldest is forgotten


class Role(StrEnum):
    """What a key is for. An operator may do what a robot may, and ask for the status."""

    robot = "robot"
    worker = "worker"
    operator = "operator"


_DOORS = {Role.robot: FRONTEND, Role.operator: FRONTEND, Role.worker: BACKEND}


@dataclass(frozen=True, slots=True)
class Identity:
    """The peer that a key belongs to."""

    name: str
    role: Role
    policies: frozenset[str] | None  # that a robot may ask for, or a worker serve; None: all


@dataclass(frozen=True, slots=True)
class Keyring:
    """The broker's own pair, and all peers that may connect, by public key (Z85)."""

    public: bytes
    secret: bytes = field(repr=False)
    peers: Mapping[str, Identity]


def read_keys(folder: Path) -> Keyring:
    """Read a folder of keys.

    Raises:
        ValueError: the folder or one of its files is not valid. Nothing of it is used then.
    """
    if not (folder / BROKER_FILE).exists():
        raise ValueError(
            f"keys={folder} has no {BROKER_FILE}: make keys with "
            f"`python -m scripts.keys --folder {folder} make NAME --role robot`"
        )
    content = read_json(folder / BROKER_FILE)
    public, secret = (
        z85_field(folder / BROKER_FILE, content, name) for name in ("public_key", "secret_key")
    )
    check_pair(folder / BROKER_FILE, public, secret)
    peers: dict[str, Identity] = {}
    for path in sorted(folder.glob("*.json")):
        key, identity = read_identity(path)
        if key in peers:
            raise ValueError(f"{path} has the same key as {peers[key].name}: make another")
        peers[key] = identity
    return Keyring(public, secret, peers)


def read_identity(path: Path) -> tuple[str, Identity]:
    """Read a peer's public key, and who it belongs to.

    Raises:
        ValueError: the file is not valid.
    """
    content = read_json(path)
    key = z85_field(path, content, "public_key").decode("ascii")
    role, policies = content.get("role"), content.get("policies")
    if not isinstance(role, str) or role not in set(Role):
        raise ValueError(f"{path}: role {role!r:.40} is not one of {', '.join(Role)}")
    if policies is not None:
        if not isinstance(policies, list) or not all(isinstance(each, str) for each in policies):
            raise ValueError(f"{path}: policies must be a list of names, or null for all")
        policies = frozenset(policies)
    return key, Identity(path.stem, Role(role), policies)


class Guard:
    """Decides about each connection (during its handshake) and about each message."""

    def __init__(self, keyring: Keyring) -> None:
        self._peers = keyring.peers
        self._owners: dict[bytes, str] = {}  # client uuid, or worker's routing id: key
        self._owned: defaultdict[str, dict[bytes, None]] = defaultdict(dict)  # oldest first

    def reload(self, keyring: Keyring) -> None:
        """Use other keys from now on; what was bound to keys that are gone becomes free."""
        self._peers = keyring.peers
        for key in [key for key in self._owned if key not in self._peers]:
            for client in self._owned.pop(key):
                del self._owners[client]

    def refusal(self, door: str, key: str) -> str:
        """The reason why a key may not connect at a door, in a few words; empty if it may."""
        identity = self._peers.get(key)
        if identity is None:
            return "unknown key"
        return "" if _DOORS[identity.role] == door else f"{identity.role} at the {door}"

    def admit_robot(self, key: str, sender: bytes, header: Header) -> Identity:
        """Check a message at the frontend.

        A robot whose key is for one policy need not name it: the name is put into the header.

        Raises:
            Forbidden: the key was revoked, the client's uuid is another key's, or the key is
                not for this policy or kind.
        """
        identity = self._known(key)
        if header["kind"] in _OPERATORS and identity.role is not Role.operator:
            raise errors.Forbidden(f"{identity.name!r} is a {identity.role}: ask as an operator")
        allowed = identity.policies
        if allowed is not None and header["kind"] in ("infer", "metadata", "rollout"):
            if "policy" not in header and len(allowed) == 1:
                header["policy"] = next(iter(allowed))
            if not _is_among(header.get("policy"), allowed):
                raise errors.Forbidden(
                    f"the key {identity.name!r} is for {', '.join(sorted(allowed)) or 'no policy'}"
                    + ("" if "policy" in header else ": name the one that you want")
                )
        self._bind(header["id"].client if "id" in header else sender, key)
        return identity

    def admit_worker(self, key: str, worker: bytes, header: Header) -> Identity:
        """Check a message at the backend; `worker` is its routing id.

        Raises:
            Forbidden: the key was revoked, the routing id is another key's, or the key is not
                for serving this policy.
        """
        identity = self._known(key)
        allowed = identity.policies
        if (
            header["kind"] == "hello"
            and allowed is not None
            and not _is_among(header.get("policy"), allowed)
        ):
            names = ", ".join(sorted(allowed)) or "no policy"
            raise errors.Forbidden(f"the key {identity.name!r} may serve {names}")
        self._bind(worker, key)
        return identity

    def _known(self, key: str) -> Identity:
        identity = self._peers.get(key)
        if identity is None:
            raise errors.Forbidden("this key was revoked")
        return identity

    def _bind(self, client: bytes, key: str) -> None:
        owner = self._owners.get(client)
        if owner == key:
            return
        if owner is not None:
            raise errors.Forbidden("this client's uuid belongs to another key")
        owned = self._owned[key]
        if len(owned) >= _MAX_CLIENTS:
            oldest = next(iter(owned))
            del owned[oldest], self._owners[oldest]
        self._owners[client], owned[client] = key, None


def _is_among(policy: str | None, allowed: frozenset[str]) -> bool:
    """Whether a name is allowed; whoever may have a policy may have each of its versions."""
    return policy is not None and (policy in allowed or base_of(policy) in allowed)
