"""`python -m scripts.keys`: makes, lists and revokes the keys that a broker asks for.

    python -m scripts.keys make arm-1 --role robot --policy aloha
    python -m broker keys=keys frontend=tcp://0.0.0.0:8000

Everything is kept in one folder, on the broker's machine. `make NAME` writes two files there:

    NAME.json   public: who may come in, as what, and for which policies; the broker reads it
    NAME.key    secret: all that this robot, worker or operator needs. Move it there, readable
                by its user only (0600); the broker doesn't need it

The first `make` also makes the broker's own pair, broker.key, which stays where it is. A broker
that runs already reads the folder again on SIGHUP.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import zmq
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from broker.security import BROKER_FILE, Role, read_identity, read_keys

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_RELOAD = "A broker that runs already hears of it with `kill -HUP PID`."


class KeysError(ValueError):
    """Something that the command line asks for cannot be done; the message says why."""


def make(folder: Path, name: str, role: Role, policies: Sequence[str]) -> Path:
    """Make a pair of keys; returns the secret file, which holds all that the peer needs.

    Raises:
        KeysError: the name is not allowed, or is taken.
        ValueError: the folder holds something that is not a key.
        OSError: the folder cannot be written.
    """
    if not _NAME.fullmatch(name) or name == "broker":
        raise KeysError(f"{name!r} cannot be a name: letters, digits and _.-, and not `broker`")
    public_file, secret_file = folder / f"{name}.json", folder / f"{name}.key"
    if public_file.exists() or secret_file.exists():
        raise KeysError(f"{name} has a key already in {folder}: revoke it first")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / BROKER_FILE).exists():
        _write(folder / BROKER_FILE, 0o600, {"name": "broker", **_pair()})
    pair = _pair()
    broker_key = read_keys(folder).public.decode("ascii")
    _write(secret_file, 0o600, {"name": name, "role": role, **pair, "broker_key": broker_key})
    peer = {"name": name, "role": role, "policies": list(policies) or None}
    try:
        _write(public_file, 0o644, {**peer, "public_key": pair["public_key"]})
    except BaseException:
        secret_file.unlink()
        raise
    return secret_file


def revoke(folder: Path, name: str) -> None:
    """Remove a peer's files.

    Raises:
        KeysError: there is no such peer.
    """
    files = [folder / f"{name}.json", folder / f"{name}.key"]
    is_name = _NAME.fullmatch(name) and name != "broker"
    if not is_name or not any(path.exists() for path in files):
        raise KeysError(f"{folder} has no key of {name}: `list` shows those that there are")
    for path in files:
        path.unlink(missing_ok=True)


def listing(folder: Path) -> list[dict[str, object]]:
    """All peers, by name: role, policies (None: all), public key, whether the secret is here.

    Raises:
        ValueError: the folder holds something that is not a key.
    """
    read_keys(folder)
    rows: list[dict[str, object]] = []
    for path in sorted(folder.glob("*.json")):
        key, identity = read_identity(path)
        rows.append(
            {
                "name": identity.name,
                "role": str(identity.role),
                "policies": None if identity.policies is None else sorted(identity.policies),
                "public_key": key,
                "secret_here": path.with_suffix(".key").exists(),
            }
        )
    return rows


def _pair() -> dict[str, str]:
    public, secret = zmq.curve_keypair()
    return {"public_key": public.decode("ascii"), "secret_key": secret.decode("ascii")}


def _write(path: Path, mode: int, content: Mapping[str, object]) -> None:
    # Never readable by others, not even for a moment; and never over an existing key.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
    except BaseException:  # a full disk: half a key would be in the way of the next try
        path.unlink()
        raise


def _table(rows: list[dict[str, object]]) -> Table:
    table = Table("name", "role", "policies", Column("public key", overflow="fold"), "secret")
    for row in rows:
        policies = row["policies"]
        shown = "all" if policies is None else ", ".join(policies)  # type: ignore[arg-type]
        here = "still here" if row["secret_here"] else "moved away"
        cells = (row["name"], row["role"], shown, row["public_key"], here)
        table.add_row(*(Text(str(cell)) for cell in cells))  # keys look like markup
    return table


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Flags(
        "python -m scripts.keys",
        __doc__,
        "Exit codes: 0 done, 1 it cannot be done (the reason is printed), 2 usage.",
    )
    parser.add_argument("--folder", type=Path, default=Path("keys"), help="of the keys (keys)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="make|list|revoke")
    making = commands.add_parser("make", help="make a key for a robot, a worker or an operator")
    making.add_argument("name", help="of the peer, and of its files")
    making.add_argument(
        "--role",
        choices=[str(role) for role in Role],
        required=True,
        metavar="|".join(Role),
        help="robots ask for actions; workers serve policies; operators see the broker's status",
    )
    making.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="NAME",
        help="a robot may ask for it, a worker serve it; again for more, none: all",
    )
    showing = commands.add_parser("list", help="show all keys; never a secret")
    showing.add_argument("--json", action="store_true", help="for programs")
    revoking = commands.add_parser("revoke", help="remove a key, so that the broker refuses it")
    revoking.add_argument("name")
    return parser.read(arguments)


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.command == "make":
        secret_file = make(options.folder, options.name, Role(options.role), options.policy)
        console.print(f"{secret_file} is secret: move it to {options.name}. {_RELOAD}")
    elif options.command == "revoke":
        revoke(options.folder, options.name)
        console.print(f"{options.name} is revoked. {_RELOAD}")
    elif options.json:
        print(json.dumps(listing(options.folder), indent=1))
    else:
        console.print(_table(listing(options.folder)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 for what cannot be done."""
    options = _parse(arguments)
    try:
        _run(options, Console(highlight=False, markup=False))
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
