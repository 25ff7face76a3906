"""Keys are made, listed and revoked; secrets stay secret."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from broker.security import Role, read_keys
from client.keys import read_key
from scripts.keys import main


def keys(folder: Path, *arguments: str) -> int:
    return main(["--folder", str(folder / "keys"), *arguments])


def test_a_key_that_was_made_lets_its_peer_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys(tmp_path, "make", "arm-1", "--role", "robot", "--policy", "a", "--policy", "b") == 0
    secret_file = tmp_path / "keys" / "arm-1.key"
    assert str(secret_file) in capsys.readouterr().out.replace("\n", "")
    key, ring = read_key(secret_file), read_keys(tmp_path / "keys")
    identity = ring.peers[key.public.decode()]
    assert (identity.name, identity.role) == ("arm-1", Role.robot)
    assert identity.policies == frozenset({"a", "b"})
    assert key.broker == ring.public


def test_without_policies_all_are_allowed(tmp_path: Path) -> None:
    assert keys(tmp_path, "make", "gpu", "--role", "worker") == 0
    (identity,) = read_keys(tmp_path / "keys").peers.values()
    assert identity.role is Role.worker
    assert identity.policies is None


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    keys(tmp_path, "make", "arm", "--role", "robot")
    folder = tmp_path / "keys"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes["keys"] == 0o700
    assert modes["arm.key"] == modes["broker.key"] == 0o600


def test_no_secret_is_ever_printed_or_public(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys(tmp_path, "make", "arm", "--role", "robot")
    keys(tmp_path, "list")
    keys(tmp_path, "list", "--json")
    printed = capsys.readouterr()
    said = printed.out + printed.err + (tmp_path / "keys" / "arm.json").read_text()
    for name in ("arm.key", "broker.key"):
        secret = json.loads((tmp_path / "keys" / name).read_text())["secret_key"]
        assert len(secret) == 40
        assert secret not in said
    assert secret not in repr(read_key(tmp_path / "keys" / "arm.key"))


def test_list_tells_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys(tmp_path, "make", "arm", "--role", "robot", "--policy", "a")
    keys(tmp_path, "make", "boss", "--role", "operator")
    (tmp_path / "keys" / "arm.key").rename(tmp_path / "arm.key")
    capsys.readouterr()
    assert keys(tmp_path, "list", "--json") == 0
    arm, boss = json.loads(capsys.readouterr().out)
    assert arm["public_key"] == read_key(tmp_path / "arm.key").public.decode()
    assert (arm["role"], arm["policies"], arm["secret_here"]) == ("robot", ["a"], False)
    assert (boss["role"], boss["policies"], boss["secret_here"]) == ("operator", None, True)
    assert keys(tmp_path, "list") == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("arm", "boss", "moved away", "still here", "all"))


def test_a_revoked_key_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys(tmp_path, "make", "arm", "--role", "robot")
    assert keys(tmp_path, "revoke", "arm") == 0
    assert read_keys(tmp_path / "keys").peers == {}
    assert not (tmp_path / "keys" / "arm.key").exists()
    assert keys(tmp_path, "revoke", "arm") == 1
    assert "no key of arm" in capsys.readouterr().err


def test_a_name_is_taken_until_it_is_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys(tmp_path, "make", "arm", "--role", "robot")
    before = (tmp_path / "keys" / "arm.key").read_text()
    assert keys(tmp_path, "make", "arm", "--role", "worker") == 1
    assert "revoke it first" in capsys.readouterr().err
    assert (tmp_path / "keys" / "arm.key").read_text() == before


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_full_disk_leaves_nothing_in_the_way(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
) -> None:
    """Of the broker's key, the peer's, and its public part."""
    write, calls = json.dump, count(1)

    def dump(*given: Any, **options: Any) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*given, **options)

    monkeypatch.setattr(json, "dump", dump)
    assert keys(tmp_path, "make", "arm", "--role", "robot") == 1
    assert "No space left" in capsys.readouterr().err
    assert keys(tmp_path, "make", "arm", "--role", "robot") == 0
    assert [each.name for each in read_keys(tmp_path / "keys").peers.values()] == ["arm"]


@pytest.mark.parametrize("left", ["arm.key", "arm.json"])
def test_half_of_a_pair_can_be_revoked(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / left).touch()
    assert keys(tmp_path, "revoke", "arm") == 0
    assert keys(tmp_path, "make", "arm", "--role", "robot") == 0


@pytest.mark.parametrize("name", ["", "../arm", "a/b", "broker", ".hidden", "a" * 64, "a b"])
def test_a_name_is_a_plain_file_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert keys(tmp_path, "make", name, "--role", "robot") == 1
    assert "cannot be a name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../arm", "broker", "nobody"])
def test_revoke_touches_no_other_file(tmp_path: Path, name: str) -> None:
    keys(tmp_path, "make", "arm", "--role", "robot")
    (tmp_path / "arm.json").write_text("{}")
    assert keys(tmp_path, "revoke", name) == 1
    assert (tmp_path / "arm.json").exists()
    assert (tmp_path / "keys" / "broker.key").exists()


def test_a_folder_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys(tmp_path, "list") == 1
    assert "make keys with" in capsys.readouterr().err


def test_a_wrong_role_names_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["make", "arm", "--role", "king"])
    assert "robot, worker, operator" in capsys.readouterr().err.replace("'", "")


@pytest.mark.parametrize("arguments", [["--help"], ["make", "--help"]])
def test_help_says_what_is_made(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "scripts.keys", *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--role" in said
    assert "robot|worker|operator" in said or "NAME.key" in said


def test_a_secret_that_others_may_read_is_complained_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys(tmp_path, "make", "arm", "--role", "robot")
    secret_file = tmp_path / "keys" / "arm.key"
    read_key(secret_file)
    assert not caplog.records
    secret_file.chmod(0o644)
    read_key(secret_file)
    assert "chmod 600" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("nothing but words", "no key file"),
        ("[]", "holds no JSON object"),
        ("{}", "has no public_key"),
        ('{"public_key": "KEY", "secret_key": "KEY", "broker_key": "KEY"}', "belong together"),
    ],
)
def test_a_file_that_is_no_key_is_named(tmp_path: Path, spoil: str, reason: str) -> None:
    path = tmp_path / "arm.key"
    path.write_text(spoil.replace("KEY", "0" * 40))
    path.chmod(0o600)
    with pytest.raises(ValueError, match=reason) as caught:
        read_key(path)
    assert "arm.key" in str(caught.value)
