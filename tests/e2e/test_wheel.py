"""The wheel holds what it should, and runs where the clone is not."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from benchmarks.openpi_venv import ROOT
from client import ZmqPolicyClient
from scripts.local.processes import free_ports
from tests.e2e.stack import WAIT_S, eventually

PACKAGES = ("client", "broker", "worker", "conf", "scripts")
COMMANDS = ("keys", "status", "checkpoint")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the working tree: building in the clone would leave folders there."""
    clone, dist = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/golden"):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((ROOT / name).read_bytes())
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(dist)], cwd=clone, check=True, capture_output=True
    )
    (made,) = dist.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip installed the wheel, without its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--target", str(folder), str(wheel)], check=True
    )
    return folder


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == set(PACKAGES)
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert names == expected


def test_what_it_asks_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(path).decode().splitlines()
    needed = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]
    plain = {line.split(">")[0].lower() for line in needed if "extra ==" not in line}
    assert plain == {"numpy", "pyzmq", "msgpack", "msgpack-numpy", "pillow"}
    assert not [line for line in needed if "numpy" in line and "<" in line]
    assert "Requires-Python: >=3.8" in lines


class Outside:
    """Python with the wheel and what it depends on, but without the clone, in a folder outside."""

    def __init__(self, installed: Path, folder: Path) -> None:
        self._folder = folder
        # `-S` leaves out the site's own .pth files, one of which leads to the clone.
        path = os.pathsep.join([str(installed), sysconfig.get_path("purelib")])
        self.environment = {**os.environ, "PYTHONPATH": path}
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def says(self, code: str) -> str:
        """What a program prints."""
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            cwd=self._folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def start(self, *command: str) -> None:
        """Start `python -m command...`."""
        path = self._folder / f"{len(self._running)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-S", "-m", *command],
                cwd=self._folder,
                env=self.environment,
                stderr=log,
            )
        self._running.append((process, path))

    def is_ready(self) -> bool:
        """Whether all that were started serve."""
        return all("ready: " in log.read_text() for _, log in self._running)

    def stop(self) -> list[int]:
        """Stop them all; returns their exit codes."""
        for process, _ in self._running:
            process.terminate()
        return [process.wait(WAIT_S) for process, _ in self._running]


def test_it_serves_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    outside = Outside(installed, tmp_path)
    assert str(ROOT) not in outside.says(
        "import broker, client, conf, worker; print(broker.__file__, conf.__file__)"
    )
    frontend, backend = free_ports(2)
    address = f"tcp://127.0.0.1:{backend}"
    try:
        outside.start("broker", f"frontend=tcp://127.0.0.1:{frontend}", f"backend={address}")
        outside.start("worker", "env=libero", "policy=noop", f"broker={address}")
        outside.start("worker", "env=aloha_sim", "model=tiny", f"broker={address}")
        eventually(outside.is_ready, "all are ready")
        with ZmqPolicyClient("127.0.0.1", frontend, policy="libero") as client:
            assert client.infer({}, deadline_s=WAIT_S)["actions"].shape[1] == 7
            assert client.get_server_metadata()["model"] == "noop"
    finally:
        codes = outside.stop()
    assert codes == [0, 0, 0]


def command(installed: Path, name: str, folder: Path, *words: str) -> tuple[int, str]:
    """Run one of the wheel's own commands in `folder`; its exit code and all that it printed."""
    outside = Outside(installed, folder)
    done = subprocess.run(
        [sys.executable, "-S", str(installed / "bin" / f"zmq-policy-{name}"), *words],
        cwd=folder,
        env=outside.environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_its_commands_work_where_another_scripts_folder_is(
    installed: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").write_text("raise RuntimeError('the wrong folder')")
    code, told = command(installed, name, tmp_path, "--help")
    assert code == 0
    assert f"usage: zmq-policy-{name}" in told


def test_a_key_is_made_with_its_command(installed: Path, tmp_path: Path) -> None:
    code, told = command(installed, "keys", tmp_path, "make", "arm-1", "--role", "robot")
    assert (code, (tmp_path / "keys" / "arm-1.key").exists()) == (0, True)
    assert "arm-1.key is secret" in told
    code, told = command(installed, "keys", tmp_path, "make", "arm-2", "role=robot")
    assert (code, "did you mean --role robot?" in told) == (2, True)


def test_a_robots_install_says_what_a_command_needs(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError(\"No module named 'rich'\")")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.path.insert(0, {str(installed)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"{code}; from scripts.installed import status; status()"],
        cwd=tmp_path,
        env=Outside(installed, tmp_path).environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'zmq-policy-broker[broker]'" in done.stderr
    assert "Traceback" not in done.stderr
