"""Rolling out a version of a policy, as an operator: which new episodes get it.

A broker keeps a plan for as long as it runs, and each of several brokers keeps its own. Send it
again when `ping` tells of another `epoch`.
"""

from __future__ import annotations

from typing import Any, Sequence

from client.policy_client import ZmqPolicyClient


def set_rollout(
    client: ZmqPolicyClient,
    policy: str,
    *,
    stable: str,
    candidate: str | None = None,
    share: float = 0.0,
    retire: Sequence[str] = (),
    move: bool = False,
) -> dict[str, Any]:
    """Make the plan by which new episodes of a policy are shared out.

    Args:
        client: an operator's; made with `policy=` where its key is for some policies only.
        policy: the base name, such as `aloha`.
        stable: the full name that new episodes get, such as `aloha@1`.
        candidate: the full name that a share of them gets instead.
        share: that share, 0 to 1: of n new episodes at most `share * n`, in even steps.
        retire: full names whose workers are to finish what they have and exit.
        move: whether running episodes of other versions go on with one of these at once. A
            candidate of share 0 is then another one. Without it they end where they began.

    Returns:
        As `get_rollout`, with this plan.

    Raises:
        errors.UnknownPolicy: no worker has served one of these names.
        errors.ProtocolError: a value is not valid, or nobody would be left to answer.
        errors.Forbidden: the broker asks for keys, and this one is no operator's.
        errors.PolicyError: the broker could not be asked.
    """
    plan: dict[str, Any] = {"policy": policy, "stable": stable, "candidate": candidate}
    return client.rollout({**plan, "share": share, "move": move, "retire": list(retire)})


def get_rollout(client: ZmqPolicyClient, policy: str) -> dict[str, Any]:
    """How a policy's plan and its versions stand.

    Returns:
        `policy`, the plan (`stable`, `candidate`, `share`, `move`), `episodes` begun since the
        broker's start and `running` now by full name, how many were `moved` from a version that was
        gone or had to be left, and `requests`: by full name, how many were `answered`, and `failed`
        by error code.

    Raises:
        errors.PolicyError: as of `set_rollout`.
    """
    return client.rollout({"policy": policy})


def retire(client: ZmqPolicyClient, policy: str, versions: Sequence[str]) -> dict[str, Any]:
    """Have the workers of these full names finish and exit; the plan stays as it is.

    Raises:
        errors.PolicyError: as of `set_rollout`.
    """
    return client.rollout({"policy": policy, "retire": list(versions)})
