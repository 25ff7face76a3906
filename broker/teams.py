"""Teams: whose requests share what, as an operator's file of YAML says.

    lab: {members: [arm-1, arm-2], weight: 2}
    night-runs: {members: [grid], traffic: evaluation, max_rate: 50, max_share: 0.5}

Members are the names of keys; without keys, the names that robots give themselves. Whoever is in no
team shares one of weight 1 with all others that are in none. Only `read_teams` does any I/O.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from client.wire import MAX_NAME, TRAFFIC

MOST_TEAMS = 256
_HEAVIEST = 1000.0


@dataclass
class Team:
    """One team: its weight among teams, and its quotas; None is without bound."""

    members: list[str] = field(default_factory=list)
    weight: float = 1.0
    traffic: str | None = None  # of all its requests, whatever they say
    max_requests: int | None = None  # in hand
    max_rate: float | None = None  # requests a second, of all members together
    max_rate_per_member: float | None = None
    max_share: float | None = None  # of the slots of a policy's workers, but at least one


Teams = Mapping[str, Team]


def read_teams(path: Path, known: Collection[str] | None = None) -> dict[str, Team]:
    """Read a file of teams; `known` are the names that keys have, None where there are no keys.

    Raises:
        ValueError: the file cannot be read or is not valid. Nothing of it is used then.
    """
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(
            f"fairness.teams={path} cannot be read: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(tree, dict) or not tree or len(tree) > MOST_TEAMS:
        raise ValueError(
            f"fairness.teams={path}: 1 to {MOST_TEAMS} teams are expected, such as "
            "lab: {members: [arm-1], weight: 2}"
        )
    teams = {str(name): _team(f"{path}: team {str(name)!r}", tree[name]) for name in tree}
    _check_members(path, teams, known)
    return teams


def _team(where: str, content: Any) -> Team:
    if not 0 < len(where.split("team ", 1)[1]) - 2 <= MAX_NAME:
        raise ValueError(f"{where:.200}: a name of 1 to {MAX_NAME} characters is expected")
    if not isinstance(content, dict):
        raise ValueError(f"{where} is {content!r:.80}: {{members: [NAME, ...], weight: 1}}")
    allowed = [each.name for each in fields(Team)]
    for key in content:
        if key not in allowed:
            raise ValueError(
                f"{where}: unknown key {key!r}{_hint(str(key), allowed)}; there are "
                + ", ".join(allowed)
            )
    members = content.get("members")
    if (
        not isinstance(members, list)
        or not members
        or not all(isinstance(each, str) and each for each in members)
    ):
        raise ValueError(f"{where}: members is {members!r:.80}: a list of names is expected")
    traffic = content.get("traffic")
    if traffic is not None and traffic not in TRAFFIC:
        hint = _hint(str(traffic), TRAFFIC)
        raise ValueError(f"{where}: traffic is {traffic!r:.40}{hint}: {' or '.join(TRAFFIC)}")
    _number(where, content, "weight", _HEAVIEST)
    _number(where, content, "max_rate", 1e6)
    _number(where, content, "max_rate_per_member", 1e6)
    _number(where, content, "max_share", 1.0)
    most = content.get("max_requests")
    if most is not None and (type(most) is not int or not 0 < most <= 1e9):
        raise ValueError(f"{where}: max_requests is {most!r:.40}: an integer from 1 on is expected")
    return Team(**{key: value for key, value in content.items() if value is not None})


def _number(where: str, content: Mapping[str, Any], key: str, most: float) -> None:
    value = content.get(key)
    if value is None:
        return  # without bound; a weight is 1
    if type(value) not in (int, float) or not 0 < value <= most:
        raise ValueError(
            f"{where}: {key} is {value!r:.40}: a number above 0 is expected, {most:g} at most"
        )


def _check_members(path: Path, teams: Teams, known: Collection[str] | None) -> None:
    seen: dict[str, str] = {}
    for name, team in teams.items():
        for member in team.members:
            if member in seen:
                raise ValueError(f"{path}: {member!r} is in {seen[member]!r} and in {name!r}")
            seen[member] = name
            if known is not None and member not in known:
                raise ValueError(
                    f"{path}: team {name!r} has the member {member!r}, and no key has that "
                    f"name{_hint(member, known)}"
                )


def _hint(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
