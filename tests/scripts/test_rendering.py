"""The check for off-screen rendering: the picture itself, and what happens without EGL."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from scripts import rendering

Answer = Callable[..., "subprocess.CompletedProcess[str]"]


def answers(codes: dict[str, int], calls: list[list[str]]) -> Answer:
    """A stand-in for subprocess.run: notes the call, ends with the code for its subcommand."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, codes.get(command[1], 0), "", "E: no such luck")

    return run


def test_this_machine_renders() -> None:
    assert rendering.probe() is None


def test_a_failed_probe_gives_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", answers({"-c": 1}, []))
    assert rendering.probe() == "E: no such luck"


def test_root_on_debian_gets_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = iter(["no libEGL", None])
    calls: list[list[str]] = []
    monkeypatch.setattr(rendering, "probe", lambda: next(problems))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", answers({"update": 100}, calls))
    assert rendering.main([]) == 0
    assert calls == rendering.install_commands()
    assert set(rendering.PACKAGES) < set(calls[1])


def test_a_failed_installation_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendering, "probe", lambda: "no libEGL")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", answers({"install": 100}, []))
    assert rendering.main([]) == 1
    told = capsys.readouterr().err
    assert "apt-get install: E: no such luck" in told
    assert "run: apt-get update" in told


@pytest.mark.parametrize(
    ("apt", "expected"),
    [("/usr/bin/apt-get", "run: sudo apt-get update"), (None, "on Debian and Ubuntu: libegl1")],
)
def test_others_are_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    apt: str | None,
    expected: str,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be installed")

    monkeypatch.setattr(rendering, "probe", lambda: "no libEGL")
    monkeypatch.setattr(shutil, "which", lambda name: apt)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(subprocess, "run", never)
    assert rendering.main([]) == 1
    told = capsys.readouterr().err
    assert "does not work: no libEGL" in told
    assert expected in told
