"""Flags say what was meant, and every command ends quietly where its reader or user has enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conf.flags import INTERRUPTED, READER_GONE, Flags, between

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
QUICK = [
    "broker",
    "worker",
    "scripts.keys",
    "scripts.status",
    "scripts.simple_client",
    "scripts.demo",
    "scripts.fleet",
    "scripts.rollout",
    "scripts.rendering",
]
SLOW = [
    "scripts.checkpoint",
    "benchmarks.transport",
    "benchmarks.lan",
    "benchmarks.faults",
    "benchmarks.scheduling",
    "benchmarks.model",
    "benchmarks.model.techniques",
]
# Imports what its command line does, says so, and would then import for an hour.
IMPORTING = """
from conf.flags import interruptible
interruptible()
print("importing", flush=True)
import time
time.sleep(3600)
"""
# Prints more than a pipe holds, through print or through rich.
WORDY = """
from conf.flags import run_command
def main():
    say = print
    if WITH_RICH:
        from rich.console import Console
        say = Console().print
    for number in range(100_000):
        say(number)
run_command(main)
"""


def flags() -> Flags:
    parser = Flags(
        "python -m scripts.example", "What it does:\n\n    an example\n", "Exit codes: 0."
    )
    parser.add_argument("--host")
    parser.add_argument("--key-file")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("names", nargs="*")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("make").add_argument("--role")
    return parser


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("host=x", "did you mean --host x?"),
        ("hots=x", "did you mean --host x?"),
        ("key_file=x", "did you mean --key-file x?"),
        ("json=true", "did you mean --json?"),
        ("role=robot", "did you mean --role robot?"),
        ("host=", "did you mean --host VALUE?"),
        ("--hots x make", "unknown argument --hots: did you mean --host?"),
        ("--key_file=x make", "unknown argument --key_file=x: did you mean --key-file?"),
        ("--zzz make", "unknown argument --zzz; --help lists all options"),
    ],
)
def test_what_was_meant_is_said(line: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        flags().read(line.split())
    assert ended.value.code == 2
    assert meant in capsys.readouterr().err


def test_the_value_of_a_flag_may_look_like_a_setting() -> None:
    assert flags().read(["--host", "host=x", "make"]).host == "host=x"
    assert flags().read(["--host=key_file=x", "make"]).host == "key_file=x"


def test_help_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flags().read(["--help"])
    assert "\n    an example\n" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0", "11", "1.5", "many", "", "nan"])
def test_a_number_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="is not a whole number from 1 to 10"):
        between(1, 10)(text)
    assert between(1, 10)("10") == 10
    assert between(0, 1, float)("0.5") == 0.5


# The others import torch or matplotlib before, which takes seconds.
@pytest.mark.parametrize("command", QUICK)
def test_every_command_helps(command: str) -> None:
    words = [sys.executable, "-m", command, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python -m {command}" in done.stdout


@pytest.mark.parametrize("command", ["broker", "worker", "scripts.keys"])
def test_the_reader_of_the_help_may_have_enough(command: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)  # no buffer is large enough to hide a reader that was never there
    words = [sys.executable, "-m", command, "--help"]
    done = subprocess.run(
        words, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=WAIT_S, check=False
    )
    os.close(theirs)
    # argparse takes no notice of a reader that is gone, and says that all is well.
    assert done.returncode in (0, READER_GONE)
    assert done.stderr == ""


@pytest.mark.parametrize("command", [each for each in QUICK + SLOW if "." in each])
def test_every_script_ends_as_all_do(command: str) -> None:
    path = ROOT / command.replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    source = file.read_text()
    assert source.endswith("    run_command(main)\n")
    assert source.index("    interruptible()") < source.index("\nimport ")


@pytest.mark.parametrize("with_rich", [True, False])
def test_a_reader_that_has_enough_ends_it_quietly(with_rich: bool) -> None:
    code = WORDY.replace("WITH_RICH", str(with_rich))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.wait(WAIT_S) == READER_GONE
        assert process.stderr.read() == ""


def test_ctrl_c_ends_a_command_that_still_imports() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == INTERRUPTED
        assert process.stderr.read() == ""
