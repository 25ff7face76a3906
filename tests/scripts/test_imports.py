"""What a person runs must not need what only developers have."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
FORBIDDEN = {"tests", "benchmarks"}


def imported(source: str) -> set[str]:
    """The top-level packages that a module imports anywhere in its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(SCRIPTS.rglob("*.py")), ids=str)
def test_scripts_import_neither_tests_nor_benchmarks(path: Path) -> None:
    assert not imported(path.read_text()) & FORBIDDEN


def test_an_import_inside_a_function_is_seen() -> None:
    source = "def f():\n    from tests.e2e import stack\n    import benchmarks.lan as lan\n"
    assert imported(source) == FORBIDDEN
