"""Api-Keys: what the file may hold, and who shows which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.gateway.access import ANYONE, ApiKeys, Identity
from client.errors import Forbidden

KEY = "a-key-of-enough-signs"


def written(folder: Path, content: Any) -> str:
    path = folder / "keys.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return str(path)


def test_without_a_file_anyone_is_let_in() -> None:
    keys = ApiKeys(None)
    assert keys.identify_header(None) is ANYONE
    assert keys.identify_header("Api-Key whatever") is ANYONE


@pytest.mark.parametrize("header", [f"Api-Key {KEY}", f"api-key  {KEY} ", f"Bearer {KEY}"])
def test_a_key_is_known_by_its_header(tmp_path: Path, header: str) -> None:
    keys = ApiKeys(written(tmp_path, {"arm-1": {"api_key": KEY, "policies": ["aloha"]}}))
    assert keys.identify_header(header) == Identity("arm-1", ("aloha",), "robot")


@pytest.mark.parametrize("header", [None, "", KEY, f"Basic {KEY}", f"Api-Key {KEY}x", "Api-Key é"])
def test_no_key_and_another_one_are_refused(tmp_path: Path, header: str | None) -> None:
    keys = ApiKeys(written(tmp_path, {"arm-1": {"api_key": KEY}}))
    with pytest.raises(Forbidden, match="Api-Key"):
        keys.identify_header(header)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": 1}, "a: an entry is"),
        ({"a": {}}, "api_key must be a text"),
        ({"a": {"api_key": "short"}}, "api_key must be a text"),
        ({"a": {"api_key": 10**20}}, "api_key must be a text"),
        ({"a": {"api_key": KEY, "policies": "aloha"}}, "policies must be a list"),
        ({"a": {"api_key": KEY, "role": "king"}}, "role 'king'"),
        ({"a": {"api_key": KEY, "mapping": 1}}, "mapping must be"),
        ({"a": {"api_key": KEY, "policy": "x"}}, "unknown policy"),
        ({"a": {"api_key": KEY}, "b": {"api_key": KEY}}, "have one api_key"),
        ([], "no JSON object"),
    ],
)
def test_a_file_that_is_not_valid_is_refused(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ApiKeys(written(tmp_path, content))


def test_a_key_for_one_policy_need_not_name_it() -> None:
    one, two = Identity("a", ("aloha",)), Identity("a", ("aloha", "droid"))
    assert one.policy(None, "other") == "aloha"
    assert two.policy("droid", None) == "droid"
    assert two.policy(None, "droid") == "droid"
    assert ANYONE.policy(None, "usual") == "usual"
    assert ANYONE.policy("asked", "usual") == "asked"
    for identity, asked in (
        (one, "droid"),
        (two, None),
        (two, "libero"),
        (Identity("a", ()), None),
    ):
        with pytest.raises(Forbidden, match="is for"):
            identity.policy(asked, None)
