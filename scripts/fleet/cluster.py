"""Finding Ray: a cluster that runs, or one that is started on this machine for one fleet."""

from __future__ import annotations

import importlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from conf.overrides import nearest
from scripts.fleet.config import FleetConfig

NO_RAY = 3  # the exit code
_MB = 2**20
_RAYS_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU"}
_AUTH_MODE = "RAY_AUTH_MODE"
_ROOT = Path(__file__).parents[2]  # where our packages are imported from


class NoRay(RuntimeError):
    """Ray is not installed, not there, or has no such fleet; the message says what to do."""


def ray_module() -> Any:
    """Ray, which takes a third of a second to import: so only where it is needed.

    Raises:
        NoRay: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise NoRay(
            f"the fleet needs {error.name}, which is not installed: "
            "pip install 'zmq-policy-broker[fleet]'"
        ) from None


def namespace(config: FleetConfig) -> str:
    """A fleet's own namespace, so that those of one cluster do not see each other."""
    return f"zmq-policy-fleet-{config.name}"


def connect(config: FleetConfig) -> Any:
    """Connect to the cluster at `ray.address`, or to the one that `up` has started here.

    Raises:
        NoRay: there is none.
    """
    _show_token()
    ray = ray_module()
    address = config.ray.address or _own_address(config)
    _check_reachable(address, config.ray.timeout_s)
    _init(ray, config, address=address)
    return ray


def start(config: FleetConfig) -> Any:
    """Start a cluster on this machine, which ends with this process.

    Raises:
        NoRay: Ray is not installed, or does not start.
    """
    ray = ray_module()
    # The actors' processes inherit it, and import our packages from where this one has.
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    _init(
        ray,
        config,
        include_dashboard=config.ray.dashboard,
        object_store_memory=config.ray.object_store_mb * _MB,
        num_cpus=config.ray.num_cpus,
        num_gpus=config.ray.num_gpus,
    )
    return ray


@contextmanager
def announced(ray: Any, config: FleetConfig) -> Iterator[None]:
    """Inside, commands in other terminals find the cluster that this process has started."""
    file = _announcement(config)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(json.dumps({"address": ray.get_runtime_context().gcs_address}))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _announcement(config: FleetConfig) -> Path:
    return Path(tempfile.gettempdir(), f"zmq-policy-fleets-{os.getuid()}", f"{config.name}.json")


def _own_address(config: FleetConfig) -> str:
    file = _announcement(config)
    try:
        return str(json.loads(file.read_text())["address"])
    except (OSError, ValueError, KeyError):
        others = sorted(each.stem for each in file.parent.glob("*.json"))
        hint = nearest(config.name, others) or (
            f"; those that do: {', '.join(others)}" if others else ""
        )
        raise NoRay(
            f"no fleet named {config.name!r} was started on this machine{hint}: start one with "
            "`up`, or name the cluster with ray.address=HOST:PORT"
        ) from None


def _show_token() -> None:
    """Have Ray show its token where there is one, as `ray start` has the cluster ask for it then.

    Ray reads the mode when it is imported, and does so by itself only where it starts a cluster.
    """
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if _AUTH_MODE not in os.environ and ("RAY_AUTH_TOKEN" in os.environ or file.exists()):
        os.environ[_AUTH_MODE] = "token"


def _check_reachable(address: str, timeout_s: float) -> None:
    """Fail soon where nobody listens; Ray itself would try for minutes, and then abort."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal()) or "://" in address:
        raise NoRay(f"ray.address={address}: HOST:PORT is expected, as `ray start` prints it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), min(timeout_s, 10.0)).close()
    except (OSError, OverflowError) as error:
        raise NoRay(
            f"no Ray at ray.address={address}: {error}. Is `ray start --head` running there? "
            "Without ray.address, `up` starts a cluster on this machine"
        ) from None


def _init(ray: Any, config: FleetConfig, **options: Any) -> None:
    what = options.get("address") or "a cluster on this machine"
    watchdog = threading.Timer(config.ray.timeout_s, _give_up, (str(what), config.ray.timeout_s))
    watchdog.daemon = True
    watchdog.start()
    try:
        ray.init(
            namespace=namespace(config), log_to_driver=False, configure_logging=False, **options
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise NoRay(f"Ray at {what}: {' '.join(str(error).split())}") from error
    finally:
        watchdog.cancel()


def _give_up(what: str, timeout_s: float) -> NoReturn:
    # Ray waits inside its own C++ code, which no exception leaves.
    text = (
        f"Ray at {what} did not answer within {timeout_s:g} s: is it Ray that listens there, of "
        "the same version, and is this machine a part of that cluster? ray.timeout_s= allows more\n"
    )
    os.write(2, text.encode())
    os._exit(NO_RAY)


def why_pending(
    wanted: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], free: Mapping[str, float]
) -> str:
    """Why no machine has been found for a process yet, and what there is.

    Args:
        wanted: `resources` by name, and `labels`.
        nodes: `ray.nodes()`.
        free: `ray.available_resources()`.
    """
    alive = [node for node in nodes if node["Alive"]]
    labels = wanted["labels"]
    fitting = [
        node for node in alive if all(node["Labels"].get(key) == labels[key] for key in labels)
    ]
    if not fitting:
        text = ", ".join(f"{key}={value}" for key, value in labels.items())
        return f"no machine has the labels {text}; there are {len(alive)} machines"
    for name, amount in wanted["resources"].items():
        key = _RAYS_NAMES.get(name, name)
        each = [float(node["Resources"].get(key, 0.0)) for node in fitting]
        if max(each) < amount:
            return (
                f"it wants {name}={amount:g}, and no machine has more than {max(each):g} "
                f"({sum(each):g} in all)"
            )
    for name, amount in wanted["resources"].items():
        key = _RAYS_NAMES.get(name, name)
        if free.get(key, 0.0) < amount:
            total = sum(float(node["Resources"].get(key, 0.0)) for node in alive)
            left = free.get(key, 0.0)
            return f"it wants {name}={amount:g}, and {left:g} of {total:g} in all are free"
    return "Ray starts a process for it"
