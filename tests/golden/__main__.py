"""Agreement with the public implementation: `python -m tests.golden` prints it as a table.

Every golden observation goes through a policy made from the same settings that `python -m worker`
takes; each stage on the way is compared with what the public implementation computed.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from tests.golden import (
    CHECKPOINTS,
    FAST_CHECKPOINT,
    FLOW_CHECKPOINTS,
    RTC_CHECKPOINTS,
    Array,
    Case,
    cases,
    decodings,
    jax_form,
    overrides,
    rtc_cases,
    stages,
)
from tests.worker.composition import make_fast_policy, make_policy
from worker.policies.pi0 import Pi0Policy
from worker.policies.pi0_fast import Pi0FastPolicy
from worker.robots.transforms import ModelInput

EXACT = 0.0
STATE = 1e-6
MODEL = 2e-4
ROBOT = 1e-3
DECODED = 1e-9


@dataclass(frozen=True)
class Agreement:
    """The largest difference in one stage of one case, and what it may be."""

    case: str
    stage: str
    error: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within its limit; NaN is not."""
        return self.error <= self.limit


def agreements(checkpoint: str, location: Path | None = None) -> Iterator[Agreement]:
    """All comparisons for one golden checkpoint, or for a copy of it at `location`."""
    if checkpoint == FAST_CHECKPOINT:
        yield from _fast_agreements()
        return
    policy = make_policy(*overrides(checkpoint, location))
    yield from _cases(policy, checkpoint, MODEL)
    yield from _stages(policy, cases(checkpoint)[-1], stages(checkpoint))
    if checkpoint in RTC_CHECKPOINTS:
        yield from _rtc(policy, checkpoint)


def jax_agreements(checkpoint: str) -> Iterator[Agreement]:
    """The same for the weights in JAX's form."""
    with tempfile.TemporaryDirectory() as folder:
        for row in agreements(checkpoint, jax_form(checkpoint, Path(folder))):
            yield replace(row, case=f"{row.case} (params)")


def _fast_agreements() -> Iterator[Agreement]:
    policy = make_fast_policy(*overrides(FAST_CHECKPOINT))
    yield from _cases(policy, FAST_CHECKPOINT, EXACT)
    for index, (ids, expected) in enumerate(decodings()):
        decoded = policy.tokenizer.chunk(ids)
        # For what is no chunk the public system answers zeros, where we refuse.
        ours = np.zeros_like(expected) if decoded is None else decoded
        error = difference(ours, expected)
        yield Agreement(f"{FAST_CHECKPOINT}/{index}", "decoded tokens", error, DECODED)
    case = cases(FAST_CHECKPOINT)[-1]
    image = torch.from_numpy(policy.transforms.inputs(case.observation).images["base_0_rgb"])
    error = difference(
        policy.runner.model.vision(image[None])[0].numpy(), stages(FAST_CHECKPOINT)["image_tokens"]
    )
    yield Agreement(case.name, "image_tokens", error, MODEL)


def _cases(policy: Pi0Policy | Pi0FastPolicy, checkpoint: str, limit: float) -> Iterator[Agreement]:
    policy.load()
    for case in cases(checkpoint):
        sent = {**case.observation, "noise": case.noise}
        given = policy.transforms.inputs(sent)
        yield from _inputs(case, given)
        raw = policy.runner([given])[0]
        yield Agreement(case.name, "raw actions", difference(raw, case.raw_actions), limit)
        actions = policy.infer(sent)["actions"]
        yield Agreement(case.name, "robot actions", difference(actions, case.actions), ROBOT)


def _rtc(policy: Pi0Policy, checkpoint: str) -> Iterator[Agreement]:
    for case in rtc_cases(checkpoint):
        given = policy.transforms.inputs(case.observation)
        if given.guidance is None:
            raise ValueError(f"{case.name} was taken for a request without a leftover")
        previous = difference(given.guidance.previous, case.previous)
        yield Agreement(case.name, "leftover", previous, STATE)
        yield Agreement(
            case.name, "weights", difference(given.guidance.weights, case.weights), STATE
        )
        raw = policy.runner([given])[0]
        yield Agreement(case.name, "raw actions", difference(raw, case.raw_actions), MODEL)
        actions = policy.infer(case.observation)["actions"]
        yield Agreement(case.name, "robot actions", difference(actions, case.actions), ROBOT)


def difference(ours: npt.NDArray[np.generic], theirs: Array) -> float:
    """The largest absolute difference; infinite where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0.0))


def _inputs(case: Case, given: ModelInput) -> Iterator[Agreement]:
    tokens = difference(given.tokens, case.tokens)
    yield Agreement(case.name, "tokens", tokens, EXACT)
    present = [camera for camera, valid in case.image_mask.items() if valid]
    masks = 0.0 if list(given.images) == present else float("inf")
    yield Agreement(case.name, "camera masks", masks, EXACT)
    yield Agreement(case.name, "state", difference(given.state, case.state), STATE)
    for camera, image in case.images.items():
        if case.image_mask[camera]:
            error = difference(given.images[camera], image)
            yield Agreement(case.name, f"image {camera}", error, EXACT)


@torch.inference_mode()
def _stages(policy: Pi0Policy, case: Case, golden: dict[str, Array]) -> Iterator[Agreement]:
    given = policy.transforms.inputs(case.observation)
    model = policy.runner.model
    images = torch.from_numpy(np.stack(list(given.images.values())))[None]
    tokens = torch.from_numpy(given.tokens)[None]
    state = torch.from_numpy(given.state.astype(np.float32))[None]
    noise = torch.as_tensor(case.noise)[None]
    start = model.flow_step(1.0)
    suffix = model.embed_actions(noise, start)
    if not model.pi05:
        suffix = torch.cat([model.embed_state(state), suffix], dim=1)
    cache = model.prefix(images, tokens, state)

    def flow(steps: int) -> torch.Tensor:
        return model.sample(cache, noise, model.flow_steps(steps))[0]

    computed: dict[str, Callable[[], torch.Tensor]] = {
        "image_tokens": lambda: model.vision(images[0])[0],
        "prefix_tokens": lambda: model.embed_prefix(images, tokens)[0],
        "suffix_tokens_t1": lambda: suffix[0],
        "time_cond_t1": lambda: start.cond,
        "raw_actions_1_steps": lambda: flow(1),
        "raw_actions_4_steps": lambda: flow(4),
    }
    expected = {**golden, "prefix_tokens": golden["prefix_tokens"][golden["prefix_mask"]]}
    for stage in (name for name in computed if name in expected):
        error = difference(computed[stage]().numpy(), expected[stage])
        yield Agreement(case.name, stage, error, MODEL)


def main() -> int:
    """Print the table; 1 where anything disagrees."""
    table = Table("case", "stage", "max error", "limit", "agrees")
    held = []
    tables = [*map(agreements, CHECKPOINTS), *map(jax_agreements, FLOW_CHECKPOINTS)]
    for rows in tables:
        for row in rows:
            held.append(row.holds)
            limit = "exact" if row.limit == EXACT else f"{row.limit:.0e}"
            holds = "yes" if row.holds else "NO"
            table.add_row(row.case, row.stage, f"{row.error:.1e}", limit, holds)
        table.add_section()
    Console().print(table)
    print(f"{sum(held)} of {len(held)} comparisons agree")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
