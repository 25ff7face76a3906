"""A trace goes over robot, broker and worker, and each span lies within the one around it."""

from __future__ import annotations

import gzip
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

from broker.gateway.tracing import Tracing
from client.errors import NoWorker
from tests.broker.gateway.site import Site
from tests.e2e.stack import WAIT_S

collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


class Collector:
    """Takes in traces as an OpenTelemetry collector does, by HTTP."""

    def __init__(self) -> None:
        self.got: queue.Queue[bytes] = queue.Queue()
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_packed = self.headers.get("Content-Encoding") == "gzip"
                got.put(gzip.decompress(body) if is_packed else body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> dict[tuple[str, str], Any]:
        """Those of the next batches until a whole trace is there, by service and name."""
        found: dict[tuple[str, str], Any] = {}
        while ("robot", "infer") not in found:
            request = collector.ExportTraceServiceRequest()
            request.ParseFromString(self.got.get(timeout=WAIT_S))
            for resource in request.resource_spans:
                attributes = {
                    each.key: each.value.string_value for each in resource.resource.attributes
                }
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found[attributes["service.name"], span.name] = span
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def told() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_a_request_of_a_client_is_one_trace(shared_site: Site, told: Collector) -> None:
    running = shared_site.gateway(
        f"tracing={told.url}", "openpi.policy=echo", "http.listen=null", sections=("openpi",)
    )
    running.process.wait_ready()
    with running.connect(robot=None) as client:
        client.ask({"state": np.zeros(3)})
    running.process.terminate()  # what is left is sent
    spans = told.spans()
    root, work = spans["robot", "infer"], spans["worker", "work"]
    assert {span.trace_id for span in spans.values()} == {root.trace_id}
    assert spans["broker", "queue"].parent_span_id == root.span_id
    assert work.parent_span_id == root.span_id
    stages = [spans["worker", name] for name in ("decode", "wait", "infer", "encode")]
    assert {stage.parent_span_id for stage in stages} == {work.span_id}
    attributes = {each.key: each.value.string_value for each in root.attributes}
    assert attributes["policy"] == "echo"
    assert attributes["dialect"] == "openpi"


def test_spans_lie_within_each_other_and_follow_each_other(told: Collector) -> None:
    tracing = Tracing(told.url)
    client = {"encode_ms": 1.0, "network_ms": 4.0, "decode_ms": 1.0, "total_ms": 26.0}
    server = {
        "queue_ms": 5.0,
        "worker_ms": 15.0,
        "decode_ms": 1.0,
        "wait_ms": 2.0,
        "infer_ms": 9.0,
        "encode_ms": 1.0,
    }
    result = {"client_timing": client, "server_timing": server}
    tracing.request({"robot": "arm"}, 10**18, 0.026, result)
    tracing.close()
    spans = told.spans()

    def ms(service: str, name: str) -> tuple[float, float]:
        span, began = spans[service, name], 10**18 - 26_000_000
        start, end = span.start_time_unix_nano, span.end_time_unix_nano
        return round((start - began) / 1e6, 6), round((end - began) / 1e6, 6)

    assert ms("robot", "infer") == (0.0, 26.0)
    assert ms("broker", "queue") == (3.0, 8.0)  # encoded, and half of the 4 ms of network
    assert ms("worker", "work") == (8.0, 23.0)
    assert ms("worker", "decode") == (9.0, 10.0)
    assert ms("worker", "infer") == (12.0, 21.0)
    assert ms("worker", "encode") == (21.0, 22.0)


def test_an_error_is_told_in_its_trace(told: Collector) -> None:
    tracing = Tracing(told.url)
    tracing.request({"robot": "arm"}, 10**18, 0.5, NoWorker("start one"))
    tracing.close()
    (span,) = told.spans().values()
    assert span.status.message == "NoWorker: start one"
