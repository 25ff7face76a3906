"""Several Ray nodes on this machine, in a process that is told what to do by lines of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.local.processes import Process, Processes

ROOT = Path(__file__).parents[3]
WAIT_S = 300.0  # Ray starts slowly where others need the cores
# No token: it would lie in the user's home. A machine that is gone is asked five times before Ray
# believes it, and each time after 3 s otherwise; one that is only slow still has 10 s each time.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "300",
    "PYTHONPATH": str(ROOT),
}
_STORE_BYTES = 80 * 2**20


class Machines:
    """A cluster whose nodes can be killed. `nodes` are what each has: resources by Ray's names."""

    def __init__(self, processes: Processes, nodes: list[Mapping[str, Any]]) -> None:
        """Start it; the first node is the head."""
        self._process: Process = processes.start_command(
            "machines",
            [sys.executable, "-m", "tests.scripts.fleet.machines", json.dumps(nodes)],
            environment=ENVIRONMENT,
            talks=True,
        )
        self.address: str = self._process.answer(WAIT_S)["address"]

    def kill(self, node: str) -> None:
        """Kill the node whose id begins so: its Ray, and what hangs on that."""
        self._ask(do="kill", node=node)

    def add(self, node: Mapping[str, Any]) -> None:
        """Add a node."""
        self._ask(do="add", node=node)

    def state(self, name: str) -> dict[str, Any]:
        """What the director of the fleet of this name says."""
        return self._ask(do="state", name=name)

    def stop(self) -> None:
        """End the cluster, all of its processes included."""
        self._ask(do="stop")
        self._process.wait(WAIT_S)

    def _ask(self, **message: Any) -> dict[str, Any]:
        self._process.tell(message)
        return self._process.answer(WAIT_S)


def main() -> None:
    """Until it is told to stop."""
    import ray
    from ray.cluster_utils import Cluster

    from scripts.fleet.cluster import NoRay
    from scripts.fleet.config import FleetConfig, RaySettings
    from scripts.fleet.operation import Fleet

    def say(**message: Any) -> None:
        print(json.dumps(message), file=talk, flush=True)

    def patient_state(name: str) -> dict[str, Any]:
        give_up = time.monotonic() + WAIT_S
        while True:
            try:
                config = FleetConfig(name=name, ray=RaySettings(timeout_s=WAIT_S))
                return Fleet.find(ray, config).state()
            except NoRay:  # its machine was killed, and it comes back on another
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.5)

    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints
    head, *others = json.loads(sys.argv[1])
    common: dict[str, Any] = {"object_store_memory": _STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**common, **head})
    # Before there are others: we would be connected to any, and it could not be killed.
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    nodes = [cluster.head_node, *(cluster.add_node(**common, **each) for each in others)]
    say(address=cluster.address)
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "kill":
            (node,) = (each for each in nodes if each.node_id.startswith(message["node"]))
            cluster.remove_node(node, allow_graceful=False)
            say()
        elif message["do"] == "add":
            nodes.append(cluster.add_node(**common, **message["node"]))
            say()
        elif message["do"] == "state":
            say(**patient_state(message["name"]))
        else:
            break
    ray.shutdown()
    cluster.shutdown()
    say()


if __name__ == "__main__":
    main()
