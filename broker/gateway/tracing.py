"""OpenTelemetry traces of the gateway's requests, when asked for: one across robot, broker, worker.

Nothing travels with a request for this. Its answer tells how long each stage took, and from that
the spans are made afterwards. What no stage accounts for is the network, half of it on either way;
so the moments of the broker's and the worker's spans are right to within that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_STAGES = ("decode_ms", "wait_ms", "infer_ms", "encode_ms")  # of a worker, in their order
_SERVICES = ("robot", "broker", "worker")


class Tracing:
    """Makes spans and sends them in batches, from a thread of its own; drops what is too much."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: a collector's, such as http://localhost:4318/v1/traces.

        Raises:
            ValueError: the packages of the extra `tracing` are not installed.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise ValueError(
                f"tracing needs {error.name}: pip install 'zmq-policy-broker[tracing]'"
            ) from error
        self._trace: Any = trace
        self._providers = {}
        processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5))
        for name in _SERVICES:
            resource = Resource.create({"service.name": name, "service.namespace": "zmq-policy"})
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            provider.add_span_processor(processor)
            self._providers[name] = provider
        self._tracers = {
            name: provider.get_tracer("broker.gateway")
            for name, provider in self._providers.items()
        }

    def request(
        self, attributes: Mapping[str, str], ended_ns: int, spent_s: float, result: Any
    ) -> None:
        """Trace one request.

        Args:
            attributes: of the whole, such as the robot's name.
            ended_ns: time of day at its end, in nanoseconds.
            spent_s: from its beginning to its end.
            result: the answer with its timings, or the error.
        """
        began_ns = ended_ns - int(spent_s * 1e9)
        root = self._tracers["robot"].start_span(
            "infer", start_time=began_ns, attributes=dict(attributes)
        )
        if isinstance(result, Mapping):
            self._parts(root, began_ns, result["client_timing"], result["server_timing"])
        else:
            description = f"{type(result).__name__}: {result}"
            root.set_status(self._trace.Status(self._trace.StatusCode.ERROR, description))
        root.end(ended_ns)

    def close(self) -> None:
        """Send what is left."""
        for provider in self._providers.values():
            provider.shutdown()

    def _parts(
        self, root: Any, began_ns: int, client: Mapping[str, float], server: Mapping[str, float]
    ) -> None:
        encode_ms, queue_ms = client["encode_ms"], server.get("queue_ms", 0.0)
        worker_ms = server.get("worker_ms", 0.0)
        outside_ms = client["total_ms"] - encode_ms - client["decode_ms"] - queue_ms - worker_ms
        at = encode_ms + max(0.0, outside_ms) / 2
        parent = self._trace.set_span_in_context(root)
        self._span("broker", "queue", parent, began_ns, at, queue_ms)
        worker = self._span("worker", "work", parent, began_ns, at + queue_ms, worker_ms)
        parent = self._trace.set_span_in_context(worker)
        at += queue_ms + max(0.0, worker_ms - sum(server.get(name, 0.0) for name in _STAGES)) / 2
        for name in _STAGES:
            spent_ms = max(0.0, server.get(name, 0.0))
            self._span("worker", name.removesuffix("_ms"), parent, began_ns, at, spent_ms)
            at += spent_ms

    def _span(
        self, service: str, name: str, parent: Any, began_ns: int, at_ms: float, spent_ms: float
    ) -> Any:
        start_ns = began_ns + int(at_ms * 1e6)
        span = self._tracers[service].start_span(name, context=parent, start_time=start_ns)
        span.end(start_ns + int(spent_ms * 1e6))
        return span
