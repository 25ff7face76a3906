"""What the worker needs of a policy: anything with `infer` can be served.

Everything else is optional and looked up when the worker starts:

| member | what it is for |
|---|---|
| `metadata` | dict sent to robots that ask for it; `action_horizon` in it is the chunk's length |
| `digest` | str that is equal for all workers that give equal answers; None until `load` knows it |
| `load()` | called once, on the inference thread, before anything else |
| `warm_up()` | called once after `load`; returns the milliseconds of one inference, or None |
| `infer_batch(observations)` | a list of results and exceptions, one for each observation |
"""

from __future__ import annotations

from typing import Any, Protocol

Observation = dict[str, Any]
"""What a robot sent, decoded: nested dicts and lists of numpy arrays and plain values."""


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
