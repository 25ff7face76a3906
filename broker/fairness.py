"""Fairness between teams, and of live robots before evaluation: lanes, quotas, shares of workers.

Nothing here is called for the usual request: while no team is named and no evaluation has come,
`is_on` is False.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from broker.config import FairnessConfig
from broker.shares import USUAL, Lane, Shares
from broker.teams import Team, Teams
from client import errors
from client.wire import EVALUATION, LIVE

_BURST_S = 1.0  # what a rate allows at once: so many seconds' worth, but at least one request
RETRY_S = 1.0


@dataclass(slots=True)
class Account:
    """What a team used, and how often it was refused."""

    requests: int = 0  # in hand
    refused: Counter[str] = field(default_factory=Counter)  # by quota
    inference_s: dict[str, float] = field(default_factory=lambda: {LIVE: 0.0, EVALUATION: 0.0})


class Fairness:
    """Knows every request's lane, refuses what is beyond a quota, and counts what lanes use."""

    def __init__(self, config: FairnessConfig, teams: Teams) -> None:
        self.is_on = False
        self.reserve_live = config.reserve_live
        self.teams: Teams = {}
        self.accounts: dict[str, Account] = {}
        self.shares: dict[str | None, Shares] = {}  # of policies that something is to do for
        self._config = config
        self._team_of: dict[str, str] = {}  # by member
        self._lanes: dict[tuple[str, bool], Lane] = {("", False): USUAL}
        self._full_at: dict[tuple[str, str], float] = {}  # team and member: see `_rate_s`
        self.use(teams)

    def use(self, teams: Teams) -> None:
        """Use these teams from now on; what is in hand stays in its lane."""
        self.teams = teams
        self._team_of = {member: name for name, team in teams.items() for member in team.members}
        for (name, _), lane in self._lanes.items():
            if name:
                team = teams.get(name, Team())
                lane.weight, lane.max_share = team.weight, team.max_share
        self._full_at.clear()
        self.is_on = self.is_on or bool(teams)
        for name in [name for name in self.accounts if name not in teams]:
            if name and not self.accounts[name].requests:
                del self.accounts[name]

    def lane(self, member: str, traffic: str) -> Lane:
        """The lane of a request of this key or robot."""
        name = self._team_of.get(member, "")
        team = self.teams.get(name)
        is_evaluation = ((team and team.traffic) or traffic) == EVALUATION
        lane = self._lanes.get((name, is_evaluation))
        if lane is None:
            lane = self._lanes[name, is_evaluation] = Lane(name, is_evaluation)
            if team is not None:
                lane.weight, lane.max_share = team.weight, team.max_share
        if lane is not USUAL:
            self.is_on = True
        return lane

    def admit(self, lane: Lane, member: str, requests: int, now: float) -> None:
        """Let a request of a member come in; it adds so many `requests` to those in hand.

        Raises:
            Overloaded: a quota of its team is used up.
        """
        team = self.teams.get(lane.team)
        if team is None:
            return
        account = self._account(lane.team)
        most = team.max_requests
        if most is not None and account.requests + requests > most:
            raise self._refusal(
                lane.team, "max_requests", f"{account.requests} of {most} requests are in hand"
            )
        rates = [("max_rate", "", team.max_rate)]
        rates.append(("max_rate_per_member", member, team.max_rate_per_member))
        for quota, who, rate in rates:
            if rate is None:
                continue
            wait_s = self._rate_s((lane.team, who), rate, now)
            if wait_s > 0.0:
                whose = f" of {who!r}" if who else ""
                text = f"more than {rate:g} requests a second{whose}"
                raise self._refusal(lane.team, quota, text, wait_s)
        for _, who, rate in rates:
            if rate is not None:
                key = lane.team, who
                self._full_at[key] = max(self._full_at.get(key, now), now) + 1.0 / rate

    def take(self, lane: Lane) -> None:
        """A request was accepted."""
        self._account(lane.team).requests += 1

    def give_back(self, lane: Lane) -> None:
        """A request got its final answer."""
        self._account(lane.team).requests -= 1

    def shares_of(self, policy: str | None) -> Shares:
        """Of a policy's workers; the first to ask begins anew."""
        shares = self.shares.get(policy)
        if shares is None:
            config = self._config
            shares = Shares(config.evaluation_share, config.reserve_live)
            self.shares[policy] = shares
        return shares

    def lease(self, lane: Lane, policy: str, expected_s: float) -> None:
        """A worker was given a request, and its slot is expected to be busy for so long."""
        self.shares_of(policy).lease(lane, expected_s)

    def took(self, lane: Lane, policy: str, expected_s: float, took_s: float) -> None:
        """A worker has answered a request, and this is how long its slot was busy."""
        traffic = EVALUATION if lane.is_evaluation else LIVE
        self._account(lane.team).inference_s[traffic] += took_s
        if policy in self.shares:
            self.shares[policy].correct(lane, expected_s, took_s)

    def release(self, lane: Lane, policy: str) -> None:
        """A worker has a request no more."""
        self.shares[policy].release(lane)

    def rest(self, policy: str | None) -> None:
        """Nobody waits for a policy: if its workers are idle as well, bygones are bygones."""
        shares = self.shares.get(policy)
        if shares is not None and not shares.leased:
            del self.shares[policy]

    def _account(self, team: str) -> Account:
        account = self.accounts.get(team)
        if account is None:
            account = self.accounts[team] = Account()
        return account

    def _rate_s(self, key: tuple[str, str], rate: float, now: float) -> float:
        """Seconds until a rate allows one more request (generic cell rate algorithm)."""
        ahead_s = self._full_at.get(key, now) - now
        return ahead_s - max(0.0, _BURST_S - 1.0 / rate) - 1e-9

    def _refusal(
        self, team: str, quota: str, text: str, retry_s: float = RETRY_S
    ) -> errors.Overloaded:
        self._account(team).refused[quota] += 1
        error = errors.Overloaded(
            f"the team {team!r} has used up its {quota}: {text}; try again later, ask less, or "
            "have the broker's operator raise it (fairness.teams)"
        )
        error.retry_after_s = max(retry_s, 0.001)
        return error
