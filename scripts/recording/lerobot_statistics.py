"""Statistics of a LeRobot dataset: least, largest, mean, deviation and quantiles of each feature.

Of pictures they are exact, from counts of all 256 values of each colour. Of vectors those of an
episode are exact; the whole dataset's quantiles are the outermost of its episodes', which is how
LeRobot itself joins them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistics = dict[str, Any]
"""By their names in the format; nested lists of numbers, `count` a list of one whole number."""

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_VALUES = 256
_COLOURS = 3


def of_rows(rows: NDArray[Any]) -> Statistics:
    """Of an episode's rows (frames, dim); each statistic but `count` is a list of `dim` numbers."""
    values = np.asarray(rows, np.float64)
    found = {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        **{name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()},
    }
    return {**{name: each.tolist() for name, each in found.items()}, "count": [len(values)]}


class Together:
    """The statistics of all episodes of one vector, joined one by one."""

    def __init__(self) -> None:
        self._joined: dict[str, Array] = {}
        self._count = 0

    def add(self, episode: Statistics) -> None:
        """Join those of one more episode, as `of_rows` made them."""
        new = {name: np.array(value) for name, value in episode.items() if name != "count"}
        count = int(episode["count"][0])
        if not self._count:
            self._joined, self._count = new, count
            return
        old, whole = self._joined, self._count + count
        mean = (old["mean"] * self._count + new["mean"] * count) / whole
        variance = (
            (old["std"] ** 2 + (old["mean"] - mean) ** 2) * self._count
            + (new["std"] ** 2 + (new["mean"] - mean) ** 2) * count
        ) / whole
        joined = {"mean": mean, "std": np.sqrt(variance)}
        for name in old.keys() - joined.keys():
            is_low = name == "min" or QUANTILES.get(name, 1.0) <= QUANTILES["q50"]
            joined[name] = (np.minimum if is_low else np.maximum)(old[name], new[name])
        self._joined, self._count = joined, whole

    def told(self) -> Statistics:
        """As `of_rows` tells them."""
        return {**{n: each.tolist() for n, each in self._joined.items()}, "count": [self._count]}


class Colours:
    """How often each colour of a camera had which of its 256 values."""

    def __init__(self) -> None:
        self._counts = np.zeros((_COLOURS, _VALUES), np.int64)
        self._frames = 0

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Count one picture, (H, W, 3)."""
        for colour in range(_COLOURS):
            values = pixels[..., colour].reshape(-1)
            self._counts[colour] += np.bincount(values, minlength=_VALUES)
        self._frames += 1

    def join(self, other: Colours) -> None:
        """Count all that another has counted."""
        self._counts += other._counts
        self._frames += other._frames

    def told(self) -> Statistics:
        """From 0 to 1, each of shape (3, 1, 1); `count` is that of the pictures."""
        shares = np.arange(_VALUES) / (_VALUES - 1)
        below = np.cumsum(self._counts, axis=1)
        whole = below[:, -1:]
        mean = (self._counts @ shares) / whole[:, 0]
        variance = np.maximum((self._counts @ shares**2) / whole[:, 0] - mean**2, 0.0)
        found = {
            "min": shares[(self._counts > 0).argmax(1)],
            "max": shares[_VALUES - 1 - (self._counts[:, ::-1] > 0).argmax(1)],
            "mean": mean,
            "std": np.sqrt(variance),
            **{
                name: shares[(below >= share * whole).argmax(1)]
                for name, share in QUANTILES.items()
            },
        }
        shaped = {name: each.reshape(_COLOURS, 1, 1).tolist() for name, each in found.items()}
        return {**shaped, "count": [self._frames]}
