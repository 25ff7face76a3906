"""`python -m benchmarks.capacity.plan`: how many of your robots a GPU, a broker and a link carry.

Give your robots' rate and chunk, and what your GPU and link do. The broker's own limit is the
measured one of this clone's benchmarks/results/load.json. docs/capacity.md explains each line.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.figures import Figure, table

MEASURED = Path(__file__).parent.parent / "results" / "load.json"
_BOUND = "so a whole core for that thread would carry"


@dataclass(frozen=True)
class Plan:
    """What the calculation starts from; rates are in Hz, sizes in bytes, times in seconds."""

    rate_hz: float = 50.0
    horizon: int = 50
    used: int = 25
    inference_s: float = 0.05
    batch: int = 1
    observation: int = 301_000
    link_bit_s: float = 1e9
    broker_per_s: float = 1000.0
    load: float = 0.75

    @property
    def asks_per_s(self) -> float:
        """Of one robot."""
        return self.rate_hz / self.used

    @property
    def deadline_s(self) -> float:
        """So long the rest of a chunk lasts while the next one is computed."""
        return (self.horizon - self.used) / self.rate_hz

    @property
    def left_s(self) -> float:
        """Of it, what remains for waiting: after the inference and the observation's way."""
        return self.deadline_s - self.inference_s - 8.0 * self.observation / self.link_bit_s

    def per_gpu(self) -> int:
        """Robots that one GPU carries: `batch` answers for each inference, at `load` of that."""
        return math.floor(self.load * self.batch / self.inference_s / self.asks_per_s)

    def per_broker(self) -> int:
        """Robots that one broker carries."""
        return math.floor(self.load * self.broker_per_s / self.asks_per_s)

    def per_link(self) -> int:
        """Robots whose observations fit the broker's link, which carries them twice: in and out."""
        return math.floor(self.load * self.link_bit_s / (8.0 * self.observation) / self.asks_per_s)


def figures(plan: Plan) -> list[Figure]:
    """The calculation, line by line."""
    return [
        Figure("a robot asks", plan.asks_per_s, "a second"),
        Figure("  an answer is of use for", plan.deadline_s * 1e3, "ms"),
        Figure("  of which may be waited", plan.left_s * 1e3, "ms"),
        Figure("a GPU carries", plan.per_gpu(), "robots"),
        Figure("a broker carries", plan.per_broker(), "robots"),
        Figure("  and serves so many GPUs", plan.per_broker() / max(1, plan.per_gpu())),
        Figure("a link in full duplex carries", plan.per_link(), "robots"),
    ]


def measured_limit(path: Path = MEASURED) -> float:
    """Requests a second that the broker's busiest thread carried, by `benchmarks.load`.

    Raises:
        ValueError: it was not measured yet.
    """
    try:
        rows = json.loads(path.read_text())["scaling"]["figures"]
        return float(next(row["value"] for row in rows if row["name"].strip() == _BOUND))
    except (OSError, KeyError, StopIteration):
        raise ValueError(
            f"{path} has no limit of the broker's: run python -m benchmarks.load --only scaling, "
            "or give --broker-per-s"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Calculate and print; the exit code is 1 if no answer can come in time."""
    parser = Flags("python -m benchmarks.capacity.plan", __doc__)
    usual = Plan()
    parser.add_argument("--rate", type=float, default=usual.rate_hz, help="control, in Hz (50)")
    parser.add_argument("--horizon", type=int, default=usual.horizon, help="actions a chunk (50)")
    parser.add_argument("--used", type=int, default=usual.used, help="before it asks again (25)")
    parser.add_argument("--inference-ms", type=float, default=50.0, help="of a batch (50)")
    parser.add_argument("--batch", type=int, default=1, help="observations in it (1)")
    parser.add_argument("--bytes", type=int, default=usual.observation, help="of one (301000)")
    parser.add_argument("--link-mbit", type=float, default=1000.0, help="the broker's (1000)")
    parser.add_argument("--broker-per-s", type=float, help="requests (as measured here)")
    parser.add_argument("--load", type=float, default=usual.load, help="of the most (0.75)")
    options = parser.read(arguments)
    if not 0 < options.used < options.horizon:
        parser.error(
            f"--used {options.used}: from 1 to {options.horizon - 1}, the horizon less one"
        )
    numbers = (options.rate, options.inference_ms, options.batch, options.bytes, options.link_mbit)
    if min(*numbers, options.load) <= 0.0:
        parser.error("rates, times and sizes are numbers above 0")
    try:
        broker_per_s = options.broker_per_s or measured_limit()
    except ValueError as error:
        parser.error(str(error))
    plan = Plan(
        options.rate,
        options.horizon,
        options.used,
        options.inference_ms / 1e3,
        options.batch,
        options.bytes,
        options.link_mbit * 1e6,
        broker_per_s,
        options.load,
    )
    console = Console(highlight=False)
    console.print(table(f"at {plan.load:g} of what each can", figures(plan)))
    if plan.left_s <= 0.0:
        console.print("no answer comes in time: use fewer of a chunk's actions, or a faster GPU")
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
