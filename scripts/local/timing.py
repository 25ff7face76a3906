"""Where the time of each request went, as stages that add up to its total, and as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

Statistic = Callable[[Sequence[float]], float]


def percentile(rank: float) -> Statistic:
    """The statistic that gives the `rank`-th percentile (0 to 100), interpolated."""
    return lambda values: float(np.percentile(np.asarray(values), rank))


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return float(np.mean(np.asarray(values)))


def standard_deviation(values: Sequence[float]) -> float:
    """The standard deviation of the whole, not of a sample."""
    return float(np.std(np.asarray(values)))


def largest(values: Sequence[float]) -> float:
    """The largest."""
    return float(np.max(np.asarray(values)))


def stages(result: Mapping[str, Any]) -> dict[str, float]:
    """One result's milliseconds by stage, in the order in which they happened, then `total`.

    "encode" and "decode" are the sums over robot and worker. "network and queue" is what no other
    stage owns: sockets, the broker, waiting for a worker.
    """
    client, server = result["client_timing"], result["server_timing"]
    policy = result.get("policy_timing", {})
    transforms = float(policy.get("transform_ms", 0.0))
    own = {
        "encode": float(client["encode_ms"]) + float(server.get("encode_ms", 0.0)),
        "transforms": transforms,
        "model": float(policy.get("model_ms", server["infer_ms"] - transforms)),
        "decode": float(client["decode_ms"]) + float(server.get("decode_ms", 0.0)),
    }
    total = float(client["total_ms"])
    return {
        "encode": own["encode"],
        "network and queue": max(0.0, total - sum(own.values())),
        "transforms": own["transforms"],
        "model": own["model"],
        "decode": own["decode"],
        "total": total,
    }


def sides(result: Mapping[str, Any]) -> dict[str, float]:
    """One result's milliseconds by place: the robot's own process, between, the worker; total."""
    client, server = result["client_timing"], result["server_timing"]
    own = float(client["encode_ms"]) + float(client["decode_ms"])
    worker = sum(float(server.get(part, 0.0)) for part in ("decode_ms", "infer_ms", "encode_ms"))
    total = float(client["total_ms"])
    between = max(0.0, total - own - worker)
    return {"client": own, "network and queue": between, "worker": worker, "total": total}


def by_stage(requests: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Turn a list of requests, each with the same stages, into one list of values per stage."""
    if not requests:
        return {}
    return {stage: [request[stage] for request in requests] for stage in requests[0]}


def latency_table(
    samples: Mapping[str, Sequence[float]], statistics: Mapping[str, Statistic]
) -> Table:
    """A table with a row for each stage in `samples` (ms) and a column for each statistic.

    Fits 80 characters with eight statistics. The row `total` is set apart, since statistics of
    the stages do not add up to its own.
    """
    table = Table(padding=(0, 1, 0, 0))
    table.add_column("milliseconds", no_wrap=True)
    for name in statistics:
        table.add_column(name, justify="right", no_wrap=True)
    for stage, values in samples.items():
        if stage == "total":
            table.add_section()
        cells = [_in_five_characters(statistic(values)) for statistic in statistics.values()]
        table.add_row(stage, *cells, style="bold" if stage == "total" else None)
    return table


def _in_five_characters(milliseconds: float) -> str:
    """Two decimals below 100 ms, one below 1000 ms, then none."""
    return f"{milliseconds:.{2 if milliseconds < 100 else 1 if milliseconds < 1000 else 0}f}"
