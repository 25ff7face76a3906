"""The brokers' own figures, of all robots, as Prometheus metrics: made anew from each status.

Of several brokers each sample has the label `broker`: sums of counters over brokers that come and
go would fall, and Prometheus takes a counter that falls for one that began at 0 again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from broker.gateway.feeds import Told
from broker.gateway.metrics import PREFIX

STATES = ("warming", "ready", "suspect", "draining")
_BYTES = {"bytes of observations": "observations", "bytes of answers": "answers"}


class BrokerMetrics(Collector):
    """Collects what the brokers told last; `up` is 0 where one tells nothing."""

    def __init__(self) -> None:
        self._told: Sequence[Told] = ()

    def take(self, told: Sequence[Told]) -> None:
        """Take over what each broker told."""
        self._told = told

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        found: dict[str, Metric] = {}
        for broker, status, trouble in self._told:
            for metric in _Figures(status, is_up=not trouble).collect():
                whole = found.setdefault(metric.name, metric)
                samples = metric.samples
                if len(self._told) > 1:
                    samples = [
                        each._replace(labels={**each.labels, "broker": broker}) for each in samples
                    ]
                whole.samples = samples if whole is metric else [*whole.samples, *samples]
        yield from found.values()


class _Figures:
    """The metrics of one broker."""

    def __init__(self, status: Mapping[str, Any], *, is_up: bool) -> None:
        """`status`: as `broker.status.report` makes it."""
        self._status, self._is_up = status, is_up

    def collect(self) -> Iterator[Metric]:
        """All of them; only that it is down, where it is."""
        up = "Whether the broker answers the gateway"
        yield GaugeMetricFamily(f"{PREFIX}_broker_up", up, value=float(self._is_up))
        if self._status and self._is_up:
            yield GaugeMetricFamily(
                f"{PREFIX}_broker_uptime_seconds",
                "Since the broker's start",
                value=self._status["uptime_s"],
            )
            yield from self._policies()
            yield from self._workers()
            yield from self._teams()
            yield from self._counters()

    def _policies(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            f"{PREFIX}_requests",
            "Accepted requests by how they ended: answered, failed, expired, superseded",
            labels=["policy", "outcome"],
        )
        stages = HistogramMetricFamily(
            f"{PREFIX}_stage_seconds",
            "Time of answered requests by stage: queue, worker, and the worker's own stages",
            labels=["policy", "stage"],
        )
        batches = CounterMetricFamily(
            f"{PREFIX}_batched_requests",
            "Answered requests by how many were computed together",
            labels=["policy", "size"],
        )
        held = CounterMetricFamily(
            f"{PREFIX}_held_steps",
            "Control steps for which robots had no new action, as their loops tell",
            labels=["policy"],
        )
        guarded = CounterMetricFamily(
            f"{PREFIX}_guarded_actions",
            "Actions that broke a guard's rule, and whether they were clipped or refused",
            labels=["policy", "joint", "rule", "outcome"],
        )
        ends = [f"{end / 1e3:g}" for end in self._status["buckets_ms"]] + ["+Inf"]
        for policy, told in self._status["policies"].items():
            for outcome, count in told["outcomes"].items():
                requests.add_metric([policy, outcome], count)
            for stage, seen in told["stages"].items():
                buckets, total = [], 0
                for end, count in zip(ends, seen["counts"], strict=True):
                    total += count
                    buckets.append((end, total))
                stages.add_metric([policy, stage], buckets, sum_value=seen["sum_ms"] / 1e3)
            for size, count in told["batches"].items():
                batches.add_metric([policy, size], count)
            held.add_metric([policy], told["held"])
            for outcome, rules in told["guards"].items():
                for name, count in rules.items():
                    joint, _, rule = name.rpartition("/")
                    guarded.add_metric([policy, joint, rule, outcome], count)
        yield from (requests, stages, batches, held, guarded)

    def _workers(self) -> Iterator[Metric]:
        workers = GaugeMetricFamily(
            f"{PREFIX}_workers", "Workers by state", labels=["policy", "state"]
        )
        states = Counter((each["name"], each["state"]) for each in self._status["workers"])
        policies = {each["name"] for each in self._status["workers"]}
        for policy in sorted({*policies, *self._status["policies"]}):
            for state in STATES:  # those without any too, so that a graph falls to 0
                workers.add_metric([policy, state], states[policy, state])
        queue = GaugeMetricFamily(f"{PREFIX}_queue", "Requests that wait", labels=["policy"])
        for policy, waiting in self._status["queues"].items():
            queue.add_metric([policy], waiting)
        robots = GaugeMetricFamily(
            f"{PREFIX}_robots",
            "Robots that asked in the last minute",
            value=sum(each["seen_s_ago"] < 60.0 for each in self._status["robots"]),
        )
        yield from (workers, queue, robots)

    def _teams(self) -> Iterator[Metric]:
        spent = CounterMetricFamily(
            f"{PREFIX}_team_inference_seconds",
            "Inference time of teams; without a name: of those in none",
            labels=["team", "traffic"],
        )
        refused = CounterMetricFamily(
            f"{PREFIX}_team_refused",
            "Requests that a quota of the team refused",
            labels=["team", "quota"],
        )
        in_hand = GaugeMetricFamily(
            f"{PREFIX}_team_requests", "Requests of a team in hand", labels=["team"]
        )
        for team in self._status.get("teams", ()):
            for traffic, seconds in team["inference_s"].items():
                spent.add_metric([team["name"], traffic], seconds)
            for quota, count in team["refused"].items():
                refused.add_metric([team["name"], quota], count)
            in_hand.add_metric([team["name"]], team["in_hand"])
        yield from (spent, refused, in_hand)

    def _counters(self) -> Iterator[Metric]:
        counters = dict(self._status["counters"])
        size = CounterMetricFamily(
            f"{PREFIX}_bytes", "Bytes that passed the broker", labels=["direction"]
        )
        for name, direction in _BYTES.items():
            size.add_metric([direction], counters.pop(name, 0))
        errors = CounterMetricFamily(
            f"{PREFIX}_errors", "Errors that robots were told", labels=["code"]
        )
        others = CounterMetricFamily(
            f"{PREFIX}_events", "All else that the broker counts, by its own name", labels=["event"]
        )
        for name, count in counters.items():
            what, _, code = name.partition(" ")
            family, label = (errors, code) if what == "error" else (others, name)
            family.add_metric([label], count)
        yield from (size, errors, others)
