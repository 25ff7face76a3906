"""The files of `docs/deployment` pass their formats' own tools, and their settings our programs."""

from __future__ import annotations

import configparser
import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.openpi_venv import ROOT
from broker.config import BrokerConfig
from broker.gateway.config import GatewayConfig
from client import ZmqPolicyClient
from conf.compose import compose
from scripts.local.processes import Process, Processes, free_ports
from scripts.simple_client.examples import make_example
from worker.config import WorkerConfig
from worker.events import DRAIN_S

FOLDER = ROOT / "docs" / "deployment"
COMPOSE = sorted(FOLDER.glob("compose*.yaml"))
UNITS = sorted((FOLDER / "systemd").glob("*.service"))
SCHEMAS: dict[str, type[Any]] = {
    "broker": BrokerConfig,
    "gateway": GatewayConfig,
    "worker": WorkerConfig,
}
WAIT_S = 60.0


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a checking tool of this environment, or of the system."""
    path = Path(sys.executable).with_name(name)
    command = [str(path) if path.exists() else name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def settings_of(text: str) -> list[str]:
    """Settings with variables replaced by their defaults, and files by any name."""
    return [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word) for word in shlex.split(text)]


def compose_file(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


def pods(name: str) -> Iterator[dict[str, Any]]:
    """Every pod's spec in a Kubernetes file."""
    for document in yaml.safe_load_all((FOLDER / "kubernetes" / name).read_text()):
        spec = document["spec"]
        if "template" in spec:
            yield spec["template"]["spec"]
        for group in [spec.get("headGroupSpec"), *spec.get("workerGroupSpecs", [])]:
            if group:
                yield group["template"]["spec"]


def test_containerfile_passes_hadolint(tmp_path: Path) -> None:
    found = tool("hadolint", FOLDER / "Containerfile")
    assert found.returncode == 0, found.stdout
    broken = tmp_path / "Containerfile"
    broken.write_text(
        (FOLDER / "Containerfile").read_text().replace("RUN python", "RUN sudo python")
    )
    assert tool("hadolint", broken).returncode != 0


def test_compose_files_pass_their_schema(tmp_path: Path) -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    found = tool("check-jsonschema", *schema, *COMPOSE)
    assert found.returncode == 0, found.stdout
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE[-1].read_text().replace("mem_limit:", "memory_limit:"))
    assert tool("check-jsonschema", *schema, broken).returncode != 0


def test_kubernetes_files_pass_its_schemas(tmp_path: Path) -> None:
    # Of Ray's own kinds it knows nothing, but their pods are ordinary ones.
    fleet = tmp_path / "fleet.yaml"
    made = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": spec}
        for number, spec in enumerate(pods("fleet.yaml"))
    ]
    assert len(made) == 2
    fleet.write_text(yaml.safe_dump_all(made))
    serving = FOLDER / "kubernetes" / "serving.yaml"
    found = tool("kubernetes-validate", "--strict", serving, fleet)
    assert found.returncode == 0, found.stdout + found.stderr
    fleet.write_text(fleet.read_text().replace("runAsNonRoot", "runAsNobody"))
    assert tool("kubernetes-validate", "--strict", fleet).returncode != 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_units_pass_systemds_check(unit: Path, tmp_path: Path) -> None:
    def complaints(text: str) -> list[str]:
        copy = tmp_path / unit.name
        # The program is not installed where the test runs.
        copy.write_text(text.replace("/opt/zmq-policy/bin/python", sys.executable))
        found = tool("systemd-analyze", "verify", "--recursive-errors=no", copy)
        known = re.compile(r"Unknown key.* '(RestartSteps|RestartMaxDelaySec)'")  # before 254
        lines = (found.stdout + found.stderr).splitlines()
        return [line for line in lines if str(copy) in line and not known.search(line)]

    text = unit.read_text()
    assert complaints(text) == []
    assert complaints(text.replace("TasksMax=", "TaskMax="))
    review = tool("systemd-analyze", "security", "--offline=true", "--threshold=30", unit)
    assert review.returncode == 0, review.stdout


def test_limits_of_units_leave_room_for_what_they_bound() -> None:
    limits, timers = BrokerConfig().limits, BrokerConfig().timers
    for unit in UNITS:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(unit.read_text())
        service = parser["Service"]
        drain_s = max(timers.drain_ms / 1e3, DRAIN_S)
        assert float(service["TimeoutStopSec"]) > 2 * drain_s + 1.0
        memory = float(service["MemoryMax"].removesuffix("G")) * 2**30
        assert memory > 1.5 * limits.max_total_bytes
        assert int(service["LimitNOFILE"]) > 1024
        assert {"Restart", "RestartSec", "TasksMax", "User"} <= set(service)


def stated() -> Iterator[tuple[str, str, list[str]]]:
    """Where settings stand, for which program, and the settings."""
    for path in COMPOSE:
        for name, service in compose_file(path.name)["services"].items():
            if "command" in service:
                yield path.name, name.partition("-")[0], settings_of(" ".join(service["command"]))
    for pod in pods("serving.yaml"):
        (container,) = pod["containers"]
        yield "serving.yaml", container["name"], container["args"]
    for text in [(ROOT / "docs" / "deployment.md").read_text(), *(u.read_text() for u in UNITS)]:
        unwrapped = re.sub(r"\n# (?=key=)", " ", text)
        for program, found in re.findall(r'(BROKER|WORKER|GATEWAY)_SETTINGS="([^"]+)"', unwrapped):
            yield "systemd", program.lower(), settings_of(found)


def test_settings_are_ones_that_the_programs_take() -> None:
    seen = set()
    for place, program, settings in stated():
        config: Any = compose(program, SCHEMAS[program], settings)
        assert dataclasses.is_dataclass(config), (place, program)
        seen.add((place, program))
    assert len(seen) >= 3 * 3


def test_images_of_the_files_are_made_by_the_containerfile() -> None:
    text = (FOLDER / "Containerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))
    images = {
        container["image"]
        for name in ("serving.yaml", "fleet.yaml")
        for pod in pods(name)
        for container in pod["containers"]
    }
    for service in compose_file("compose.yaml")["services"].values():
        assert service["build"]["target"] == service["image"].removeprefix("policy-")
        images.add(service["image"])
    assert images == {"policy-broker", "policy-gateway", "policy-worker", "policy-fleet"}
    assert {image.removeprefix("policy-") for image in images} <= targets
    # What an image is made from is there, and so is what `COPY` may see.
    for source in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
        seen = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
        assert all(f"!{name}" in seen for name in source.split())


def wait_healthy(command: list[str], process: Process) -> None:
    """Until a health check of ours exits with 0, as an engine would ask it."""
    end = time.monotonic() + WAIT_S
    while True:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if asked.returncode == 0:
            return
        process.check()
        assert time.monotonic() < end, asked.stdout + asked.stderr
        time.sleep(0.1)


def test_programs_of_the_compose_file_work_together(tmp_path: Path) -> None:
    """With their settings and the images' health checks, but without containers."""
    text = (FOLDER / "Containerfile").read_text()
    checks = [yaml.safe_load(found) for found in re.findall(r"CMD (\[.+\])\n(?:#|ENTRY)", text)]
    assert len(checks) == 2
    ports = dict(zip(("8000", "8002", "8003"), map(str, free_ports(3)), strict=True))

    def here(words: list[str]) -> list[str]:
        replaced = [word.replace("/run/policy", str(tmp_path)) for word in words]
        for port, ours in ports.items():
            replaced = [word.replace(f":{port}", f":{ours}") for word in replaced]
        return [re.sub(r"\b0\.0\.0\.0\b", "127.0.0.1", word) for word in replaced]

    services = compose_file("compose.yaml")["services"]
    with Processes(tmp_path) as processes:

        def start(name: str) -> Process:
            module = re.search(
                rf"^FROM \S+ AS {name.partition('-')[0]}$.*?^ENTRYPOINT (.+?)$",
                text,
                re.MULTILINE | re.DOTALL,
            )
            assert module is not None
            words = settings_of(" ".join(services[name]["command"]))
            return processes.start(name, yaml.safe_load(module[1])[2], *here(words))

        broker = start("broker")
        broker_check = [sys.executable, *checks[0][1:], "--port", ports["8000"]]
        wait_healthy(broker_check, broker)
        worker, gateway = start("worker-1"), start("gateway")  # the second worker is the same
        wait_healthy([sys.executable, *here(checks[1][1:])], gateway)
        worker.wait_ready(WAIT_S)
        with ZmqPolicyClient("127.0.0.1", int(ports["8000"]), timeout_s=WAIT_S) as client:
            assert client.infer(make_example("aloha_sim"))["actions"].shape == (50, 14)
        for process in (worker, gateway, broker):
            process.terminate()
            assert process.wait(WAIT_S) == 0
        asked = subprocess.run(broker_check, capture_output=True, check=False, timeout=60)
        assert asked.returncode == 1
