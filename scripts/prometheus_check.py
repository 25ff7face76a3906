"""`python -m scripts.prometheus_check`: has a real Prometheus scrape a gateway, and asks it.

Starts a broker, a worker, a gateway, a robot and `prometheus` (Debian has a package of that name),
waits until it has scraped twice, and runs the queries of docs/grafana.json. Exit codes: 0 all
queries can be parsed and those about robots have an answer, 1 one has not, 2 no prometheus.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import contextlib
import json
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.local.processes import Processes, free_ports

DASHBOARD = Path(__file__).parent.parent / "docs" / "grafana.json"
# Queries on what a healthy fleet has none of may have an empty answer.
MAY_BE_EMPTY = ("zmq_policy_errors_total", "zmq_policy_gateway", "zmq_policy_queue")
_WAIT_S = 60.0
_KEY = "an-operator-for-prometheus"
_CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: gateway
    authorization: {{type: Bearer, credentials: {key}}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    """The PromQL of a dashboard, with Grafana's own variables filled in."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"].replace("$__rate_interval", "10s").replace("$policy", ".*")


def main() -> int:
    """Scrape and ask."""
    Flags("python -m scripts.prometheus_check", __doc__).read()
    program = shutil.which("prometheus")
    if program is None:
        print("no prometheus: apt install prometheus", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name, Processes(Path(name) / "logs") as processes:
        folder = Path(name)
        frontend, backend, http, prometheus = free_ports(4)
        _start_fleet(processes, folder, (frontend, backend, http))
        (folder / "prometheus.yml").write_text(_CONFIG.format(port=http, key=_KEY))
        processes.start_command(
            "prometheus",
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            ],
        )
        stopping = threading.Event()
        robot = threading.Thread(target=_robot, args=(frontend, stopping))
        robot.start()
        try:
            return _ask_all(f"http://127.0.0.1:{prometheus}/api/v1/query")
        finally:
            stopping.set()
            robot.join()


def _start_fleet(processes: Processes, folder: Path, ports: tuple[int, int, int]) -> None:
    frontend, backend, http = ports
    keys = folder / "api_keys.json"
    keys.write_text(json.dumps({"prometheus": {"api_key": _KEY, "role": "operator"}}))
    keys.chmod(0o600)
    processes.start(
        "broker",
        "broker",
        f"frontend=tcp://127.0.0.1:{frontend}",
        f"backend=tcp://127.0.0.1:{backend}",
    )
    worker = processes.start(
        "worker",
        "worker",
        f"broker=tcp://127.0.0.1:{backend}",
        "name=aloha",
        "policy=noop",
        "env.guards.on_breach=clip",
        "env.guards.min=0.1",  # above each of the policy's actions, so that there is one to count
    )
    gateway = processes.start(
        "gateway",
        "broker.gateway",
        f"broker=tcp://127.0.0.1:{frontend}",
        f"http.listen=127.0.0.1:{http}",
        "openpi.listen=null",
        f"api_keys={keys}",
    )
    for process in (worker, gateway):
        process.wait_ready()


def _robot(frontend: int, stopping: threading.Event) -> None:
    with ZmqPolicyClient("127.0.0.1", frontend, robot="arm", timeout_s=5.0) as robot:
        while not stopping.wait(0.05):
            with contextlib.suppress(PolicyError):
                robot.infer({"state": np.zeros(14, np.float32)})


def _ask_all(address: str) -> int:
    """Ask all queries until they have their answers; prints each with its first value."""
    waiting = list(queries(json.loads(DASHBOARD.read_text())))
    give_up = time.monotonic() + _WAIT_S
    while waiting and time.monotonic() < give_up:
        time.sleep(1.0)
        try:
            ready = [query for query in waiting if _is_answered(address, query)]
        except OSError:
            continue  # it is still starting
        waiting = [query for query in waiting if query not in ready]
    for query in waiting:
        print(f"no answer: {query}", file=sys.stderr)
    return 1 if waiting else 0


def _is_answered(address: str, query: str) -> bool:
    parameters = urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(f"{address}?{parameters}", timeout=5.0) as answer:
            result = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        with error:
            print(f"cannot be parsed: {query}: {error.read().decode()}", file=sys.stderr)
        return False
    has_scraped = _first(address, "sum(up)") == "1"
    if not has_scraped or not (result or _may_be_empty(query)):
        return False
    print(f"{result[0]['value'][1] if result else '(none)':>24}  {query}")
    return True


def _may_be_empty(query: str) -> bool:
    return any(name in query for name in MAY_BE_EMPTY)


def _first(address: str, query: str) -> str:
    parameters = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"{address}?{parameters}", timeout=5.0) as answer:
        result = json.load(answer)["data"]["result"]
    return str(result[0]["value"][1]) if result else ""


if __name__ == "__main__":
    run_command(main)
