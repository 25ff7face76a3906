"""Whether the new version breaks a bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scripts.rollout.config import Bounds
from scripts.rollout.facts import Compared, Figures


@dataclass(frozen=True)
class Breach:
    """A bound that is broken, with the reason in one sentence.

    `moves` says that the new version fails requests, so its episodes cannot end with it.
    `is_latency` says that the breach counts only if it lasts, since a short disturbance of the
    network or of a broker slows requests as well.
    """

    reason: str
    moves: bool = False
    is_latency: bool = False


def judge_requests(
    names: tuple[str, str], stable: Figures, candidate: Figures, bounds: Bounds
) -> Breach | None:
    """Compare how the new version answered robots with how the old one did.

    Args:
        names: of the old and the new version.
        stable: the old version's counts since the rollout began.
        candidate: the new version's counts since the step began.
        bounds: by how much the new one may be worse.
    """
    old, new = names
    share, allowed = candidate.failed_share, stable.failed_share + bounds.failed_share
    if candidate.failures >= bounds.failures and share > allowed:
        return Breach(
            f"{new} failed {candidate.failures} of {candidate.requests} requests "
            f"({_codes(candidate.failed)}), {old} {stable.failures} of {stable.requests}",
            moves=True,
        )
    enough = min(stable.timed, candidate.timed) >= bounds.latency_requests
    if enough and _is_slower(stable.p95_ms, candidate.p95_ms, bounds):
        return Breach(
            f"{new} is slower: 95 % of its requests took up to {candidate.p95_ms:.0f} ms, those of "
            f"{old} up to {stable.p95_ms:.0f} ms{_latency_bound(bounds)}",
            is_latency=True,
        )
    return None


def judge_shadow(names: tuple[str, str], shadow: Compared, bounds: Bounds) -> Breach | None:
    """Compare what both versions answered to the same requests."""
    old, new = names
    share = shadow.failures / shadow.asked if shadow.asked else 0.0
    if shadow.failures >= bounds.failures and share > bounds.failed_share:
        return Breach(
            f"{new} failed {shadow.failures} of {shadow.asked} requests that {old} had answered "
            f"({_codes(shadow.failed)})",
            moves=True,
        )
    limits = {"largest": bounds.largest_difference, "mean": bounds.mean_difference}
    if shadow.other and any(limit is not None for limit in limits.values()):
        return Breach(f"{new} answers with other actions than {old}: {shadow.other}")
    for what, limit in limits.items():
        seen = shadow.largest if what == "largest" else shadow.mean
        if limit is not None and seen is not None and not seen <= limit:
            return Breach(
                f"actions of {new} differ from those of {old} by {seen:.4g} ({what} absolute "
                f"difference); bounds.{what}_difference is {limit:g}"
            )
    compared = shadow.asked - shadow.failures
    if compared >= bounds.latency_requests and _is_slower(
        shadow.old_p95_ms, shadow.new_p95_ms, bounds
    ):
        return Breach(
            f"{new} is slower: 95 % of the same requests took its workers up to "
            f"{shadow.new_p95_ms:.0f} ms, and those of {old} up to {shadow.old_p95_ms:.0f} ms"
            f"{_latency_bound(bounds)}",
            is_latency=True,
        )
    return None


def _is_slower(old_ms: float, new_ms: float, bounds: Bounds) -> bool:
    if bounds.latency_factor is None:
        return False
    return new_ms > max(old_ms * bounds.latency_factor, old_ms + bounds.latency_slack_ms)


def _latency_bound(bounds: Bounds) -> str:
    return (
        f"; bounds.latency_factor is {bounds.latency_factor:g}, and bounds.latency_slack_ms "
        f"{bounds.latency_slack_ms:g}"
    )


def _codes(failed: Mapping[str, int]) -> str:
    return ", ".join(f"{code} {count}" for code, count in sorted(failed.items()))
