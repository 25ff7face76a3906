"""What the gateway itself counts of the clients that it speaks for, as Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "zmq_policy"
# Seconds. A null policy's answer takes about one millisecond, a large model's on a CPU a minute.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            f"{PREFIX}_gateway_requests",
            "Requests of the gateway's clients, by how they ended",
            ["dialect", "policy", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}_gateway_request_seconds",
            "Time of answered requests of the gateway's clients; the broker tells of its stages",
            ["dialect", "policy"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._bytes = Counter(
            f"{PREFIX}_gateway_bytes",
            "Bytes of the gateway's clients' messages",
            ["dialect", "direction"],
            registry=self.registry,
        )
        self._refused = Counter(
            f"{PREFIX}_gateway_refused",
            "Connections and messages that were refused before they became a request",
            ["dialect", "reason"],
            registry=self.registry,
        )
        self._clients = Gauge(
            f"{PREFIX}_gateway_clients",
            "Clients that are connected",
            ["dialect"],
            registry=self.registry,
        )

    def request(self, dialect: str, policy: str, outcome: str, spent_s: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(dialect, policy, outcome).inc()
        if outcome == "answered":
            self._seconds.labels(dialect, policy).observe(spent_s)

    def received(self, dialect: str, size: int) -> None:
        """Count the bytes of a client's message."""
        self._bytes.labels(dialect, "received").inc(size)

    def sent(self, dialect: str, size: int) -> None:
        """Count the bytes of an answer to a client."""
        self._bytes.labels(dialect, "sent").inc(size)

    def refused(self, dialect: str, reason: str) -> None:
        """Count what was refused; `reason` is an error's code, or a few words of ours."""
        self._refused.labels(dialect, reason).inc()

    def opened(self, dialect: str) -> None:
        """A client has connected."""
        self._clients.labels(dialect).inc()

    def closed(self, dialect: str) -> None:
        """A client is gone."""
        self._clients.labels(dialect).dec()
