"""What the worker needs from a policy: anything with `infer` can be served.

Everything else is optional and looked up when the worker starts:

| member | what it is for |
|---|---|
| `metadata` | dict sent to robots that ask for it; `action_horizon` in it is the chunk's length |
| `digest` | str that is equal for all workers that give equal answers; None until `load` knows it |
| `load()` | called once, on the inference thread, before anything else |
| `warm_up()` | called once after `load`; returns the milliseconds of one inference, or None |
| `infer_batch(observations)` | a list of results and exceptions, one for each observation |
| `image_layouts` | where images are taken, and how: `{("images", "high"): "chw"}`, or "hwc" |
| `reads_only` | True: `infer` never writes into its observation |

At the places of `image_layouts` a robot may send the bytes of a JPEG, PNG or WebP file; `infer`
gets arrays. A policy with `reads_only` gets arrays that may be read-only, and those in the memory
of a robot on the same host are not copied.
"""

from __future__ import annotations

import operator
from typing import Any, Protocol

from client.body import Observation, encode_body
from client.wire import MAX_METADATA
from worker.errors import WorkerError
from worker.events import Introduction


class Policy(Protocol):
    """Anything that answers observations, one at a time."""

    def infer(self, observation: Observation) -> dict[str, Any]:
        """Compute the actions for one observation.

        Returns:
            `actions`, an array (horizon, action dim), and whatever else can be sent.

        Raises:
            client.errors.BadObservation: a key, shape or value is wrong; the robot is told so.
            worker.errors.DeviceLost: the device failed; the worker says goodbye and exits.
            Exception: anything else fails this request only, as `PolicyFailed`.
        """


def introduce(policy: Policy, name: str, slots: int, incarnation: bytes) -> Introduction:
    """What the policy says about itself, for every broker.

    Raises:
        client.errors.BadObservation: its metadata holds something that cannot be sent.
        WorkerError: its metadata is too large, its `action_horizon` is not a whole number, or its
            digest is not text.
    """
    metadata: Any = getattr(policy, "metadata", {})
    encoded = encode_body(metadata, buffers=False)
    size = sum(map(len, encoded))
    if size > MAX_METADATA:
        raise WorkerError(
            f"the policy's metadata has {size:,} bytes, {MAX_METADATA:,} are allowed: leave out"
            " what does not describe the policy"
        )
    horizon, digest = metadata.get("action_horizon", 0), getattr(policy, "digest", "")
    try:
        whole = operator.index(horizon)
    except TypeError as error:
        raise WorkerError(
            f"the policy's metadata has action_horizon={horizon!r}: a whole number is expected"
        ) from error
    if digest is not None and not isinstance(digest, str):
        raise WorkerError(f"the policy's digest is {digest!r}: a text, or None, is expected")
    return Introduction(incarnation, name, slots, whole, digest, encoded)
