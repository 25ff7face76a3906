"""What episodes look like in numbers: seams, jerk, ages, pauses and what the robot achieved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.closed_loop.episodes import JOINTS, Array, Record
from scripts.tiny.scene import CONTROL_PERIOD_S, SUCCESS


@dataclass(frozen=True)
class Row:
    """All episodes of one method over one link; changes are Euclidean, over both arms' joints."""

    method: str
    link: str
    delay_ms: float
    episodes: int
    successes: int
    mean_reward: float
    seconds_to_done: float | None
    """Mean over those that succeeded."""
    starved_steps: float
    """Control steps without a fresh action after the first one, mean of an episode."""
    age_ms: float
    """Of the observation behind an executed action, mean."""
    oldest_ms: float
    seam_jump_rad: float
    inside_change_rad: float
    seam_jerk: float
    """rad/s^3 where a seam is among the four actions that it is computed from, mean."""
    inside_jerk: float

    @property
    def seam_ratio(self) -> float:
        """Jump at a seam over step-to-step change inside of chunks."""
        return self.seam_jump_rad / self.inside_change_rad


def measure(method: str, link: str, delay_ms: float, records: Sequence[Record]) -> Row:
    """One row of the table."""
    motions = [_motion(record) for record in records]
    done = [record.done_at for record in records if record.done_at is not None]
    ages = np.concatenate([record.ages_s for record in records])
    joined = [np.concatenate(part) for part in zip(*motions, strict=True)]
    return Row(
        method=method,
        link=link,
        delay_ms=delay_ms,
        episodes=len(records),
        successes=sum(record.reward == SUCCESS for record in records),
        mean_reward=float(np.mean([record.reward for record in records])),
        seconds_to_done=float(np.mean(done)) * CONTROL_PERIOD_S if done else None,
        starved_steps=float(np.mean([_starved(record) for record in records])),
        age_ms=1e3 * float(ages.mean()),
        oldest_ms=1e3 * float(ages.max()),
        seam_jump_rad=float(joined[0].mean()),
        inside_change_rad=float(joined[1].mean()),
        seam_jerk=float(joined[2].mean()),
        inside_jerk=float(joined[3].mean()),
    )


def _starved(record: Record) -> int:
    first = record.fresh.index(True) if True in record.fresh else len(record.fresh)
    return record.fresh[first:].count(False)


def _motion(record: Record) -> tuple[Array, Array, Array, Array]:
    """Changes at seams and inside of chunks, then jerks at seams and inside."""
    joints = np.stack(record.actions)[:, JOINTS]
    fresh, seams = np.array(record.fresh), np.array(record.seams)
    # The first chunk of an episode has no action before it.
    seams &= np.cumsum(fresh) > 1
    change = np.linalg.norm(np.diff(joints, axis=0), axis=1)
    at_seam = seams[1:]
    # A held step changes nothing: it would make the motion look smoother than it is.
    inside = fresh[1:] & fresh[:-1] & ~at_seam
    jerk = np.linalg.norm(np.diff(joints, n=3, axis=0), axis=1) / CONTROL_PERIOD_S**3
    near = np.array([seams[k + 1 : k + 4].any() for k in range(len(jerk))])
    moving = np.array([fresh[k : k + 4].all() for k in range(len(jerk))])
    return change[at_seam], change[inside], jerk[near], jerk[~near & moving]
