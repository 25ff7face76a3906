"""No source of ours has a way to unpickle what came from elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("client", "broker", "worker", "conf", "scripts", "benchmarks")
FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"),
    *("msgpack_numpy", "jsonpickle", "multiprocessing"),  # each unpickles what it receives
}
FORBIDDEN_CALLS = {"send_pyobj", "recv_pyobj", "loads", "eval", "exec", "unsafe_load", "full_load"}
CHECKED = {
    # It gets only what this file has checked, and never the field that says "objects"
    # (`tests/client/test_body_malformed.py` tries).
    ("client/body.py", "msgpack_numpy"),
    # Between the processes of one command, which start each other.
    ("scripts/tiny/collect.py", "multiprocessing"),
    ("scripts/tiny/evaluate.py", "multiprocessing"),
    ("benchmarks/fairness.py", "multiprocessing"),
    ("benchmarks/fairness.py", "multiprocessing.sharedctypes"),
    ("benchmarks/fairness.py", "multiprocessing.sharedctypes.Synchronized"),
    ("benchmarks/fairness.py", "multiprocessing.synchronize"),
    ("benchmarks/fairness.py", "multiprocessing.synchronize.Event"),
}
SAFE_LOADS = {"json"}  # modules whose `loads` is harmless


def offences(source: str) -> Iterator[str]:
    """What in a source could unpickle."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if isinstance(node, ast.Call):
            yield from _call(node)


def _call(node: ast.Call) -> Iterator[str]:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in FORBIDDEN_CALLS and owner not in SAFE_LOADS and owner not in ("model", "self"):
        yield f"{owner}.{name}"
    if options.get("allow_pickle", "False") != "False":
        yield f"{name}(allow_pickle)"
    if (owner, name) == ("torch", "load") and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_source_can_unpickle(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    found = {
        (str(path.relative_to(ROOT)), each) for path in paths for each in offences(path.read_text())
    }
    assert found - CHECKED == set()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import msgpack_numpy as m",
        "from multiprocessing import Pool",
        "socket.recv_pyobj()",
        "np.load(f, allow_pickle=True)",
        "torch.load(f)",
        "x.loads(y)",
    ],
)
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert list(offences(source))
