"""Whoever calls a public function can read in its docstring what it raises."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

import client.errors
import conf.overrides
import worker.errors

ROOT = Path(__file__).parent.parent
ROOMS = ("client", "broker", "worker", "conf", "scripts", "benchmarks")
# What only a bug or a wrong subclass can cause, and how programs end: not part of an interface.
UNTOLD = {"NotImplementedError", "AssertionError", "SystemExit", "KeyboardInterrupt"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def untold(source: str) -> Iterator[str]:
    """Public functions with an exception that no `Raises:` section names, nor a base of it."""
    for owner, function in _public_functions(ast.parse(source)):
        told = _names_told(ast.get_docstring(function) or "")
        for name in sorted(set(_raised(function)) - UNTOLD):
            if not told & _with_bases(name):
                yield f"{owner}{function.name}: {name}"


def _public_functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield "", node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                is_public = isinstance(member, Function) and (
                    not member.name.startswith("_") or member.name == "__init__"
                )
                if is_public:
                    yield f"{node.name}.", member  # type: ignore[misc]


def _raised(function: Function) -> Iterator[str]:
    """The names of exceptions that a function raises itself, and does not catch itself."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (*(ast.FunctionDef, ast.AsyncFunctionDef), ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(node, ast.Try) and node.handlers:
            waiting += [*node.handlers, *node.orelse, *node.finalbody]
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = raised.attr if isinstance(raised, ast.Attribute) else getattr(raised, "id", "")
            if name[:1].isupper():  # not a variable, nor a function that makes one
                yield name
        waiting += ast.iter_child_nodes(node)


def _names_told(docstring: str) -> set[str]:
    section = docstring.partition("Raises:\n")[2]
    words = [line.strip().partition(":")[0] for line in section.splitlines() if ":" in line]
    return {word.rpartition(".")[2] for each in words for word in each.split(",")}


def _with_bases(name: str) -> set[str]:
    homes = (client.errors, worker.errors, conf.overrides, builtins)
    found = next((getattr(home, name) for home in homes if hasattr(home, name)), None)
    return {name} if found is None else {cls.__name__ for cls in found.__mro__}


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_raised_is_told(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {each}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for each in untold(path.read_text())
    ]
    assert found == []


SILENT = '''
def read(path):
    """Read it."""
    raise ValueError("no")
'''
TOLD = '''
def read(path):
    """Read it.

    Raises:
        PolicyError: it cannot be read.
    """
    if path:
        raise errors.NoWorker("no")
    try:
        raise KeyError(path)
    except KeyError:
        return None
'''


def test_the_check_can_fail() -> None:
    assert list(untold(SILENT)) == ["read: ValueError"]
    assert list(untold(TOLD)) == []
