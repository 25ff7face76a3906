"""Who imports whom, read from the sources: no circles, no arrow upwards, and only what each may.

Imports inside functions and under `if TYPE_CHECKING` count like all others: what one module has
to know of another is the same.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("client", "broker", "worker", "conf", "scripts", "benchmarks", "tests")
LONGEST_FILE = 300  # lines, but for tests

# What the modules of each package may import of ours beside their own package.
ALLOWED: Mapping[str, frozenset[str]] = {
    "client": frozenset(),
    "broker": frozenset({"client", "conf"}),
    "worker": frozenset({"client", "conf"}),
    "conf": frozenset(),
    "scripts": frozenset({"client", "broker", "worker", "conf"}),
}
WITHOUT_CIRCLES = ("client", "broker", "worker", "conf")
LAYERED = ("broker", "broker.gateway", "worker")  # those whose __init__.py has a table of layers
# Processes of their own inside a package: nothing else of it imports them.
APART = {"broker": "broker.gateway"}
OF_READABLE_LENGTH = ("client", "broker", "worker", "conf", "scripts", "benchmarks")


def sources(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path, source: str) -> Iterator[str]:
    """Full names of all that a source imports; of `from a import b` that is `a.b` and `a`."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path.parent)
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            base = ".".join(filter(None, [start if node.level else "", node.module or ""]))
            for alias in node.names:
                yield f"{base}.{alias.name}"


def import_graph(*packages: str) -> dict[str, set[str]]:
    """For each of our modules, those of ours that it imports."""
    return {name: set(_imports_of(name)) for name in _paths() if name.partition(".")[0] in packages}


@cache
def _paths() -> dict[str, Path]:
    """Where each of our modules lies, by its name."""
    return {module_name(path): path for path in sources(*PACKAGES)}


@cache
def _imports_of(name: str) -> frozenset[str]:
    """Those of our modules that this one imports."""
    path = _paths()[name]
    found = imported_names(path, path.read_text())
    return frozenset(ours for each in found if (ours := _ours(each, _paths()))) - {name}


def _ours(name: str, known: Mapping[str, Path]) -> str:
    """The module that an imported name lies in; empty if it is none of ours."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def between_rooms(graph: Mapping[str, set[str]], package: str) -> dict[str, set[str]]:
    """The imports from one room to another; a room is a package's module, or a folder of them."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[: package.count(".") + 2])

    rooms: dict[str, set[str]] = {}
    for module, others in graph.items():
        found = rooms.setdefault(room(module), set())
        found.update(room(other) for other in others if room(other) != room(module))
    return rooms


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Some modules that import each other in a circle, or none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            circle = walk(other, [*path, module])
            if circle:
                return circle
        done.add(module)
        return []

    for module in sorted(graph):
        circle = walk(module, [])
        if circle:
            return circle
    return []


def told_layers(package: str) -> list[list[str]]:
    """The layers that the table in a package's `__init__.py` has, the lowest first."""
    folder = ROOT.joinpath(*package.split("."))
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    table = text.partition("modules\n")[2].partition("\n\n")[0]
    rows = [line.split(maxsplit=1)[1].split(",") for line in table.splitlines()]
    return [[f"{package}.{name.strip()}" for name in row] for row in reversed(rows)]


def arrows_upwards(graph: Mapping[str, set[str]], layers: list[list[str]]) -> list[str]:
    """The imports of a module's own layer or of a higher one."""
    height = {module: number for number, layer in enumerate(layers) for module in layer}
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in sorted(others & height.keys())
        if height[other] >= height[module]
    ]


def test_no_module_imports_itself_through_others() -> None:
    graph = import_graph(*WITHOUT_CIRCLES)
    assert len(graph) > 80
    assert find_circle(graph) == []


def inside(package: str, module: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layered_graph(package: str) -> dict[str, set[str]]:
    """The imports of a package's modules, without those of a process apart in it."""
    graph, apart = import_graph(package.partition(".")[0]), APART.get(package, "nothing")
    return {
        module: others
        for module, others in graph.items()
        if inside(package, module) and not inside(apart, module)
    }


@pytest.mark.parametrize("package", LAYERED)
def test_modules_import_lower_layers_only(package: str) -> None:
    graph = between_rooms(layered_graph(package), package)
    layers = told_layers(package)
    assert {module for layer in layers for module in layer} == graph.keys() - {package}
    assert arrows_upwards(graph, layers) == []


@pytest.mark.parametrize("package", APART)
def test_nothing_imports_a_process_apart(package: str) -> None:
    imports = {
        f"{module} imports {other}"
        for module, others in layered_graph(package).items()
        for other in others
        if inside(APART[package], other)
    }
    assert imports == set()


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    foreign = {
        f"{module} imports {other}"
        for module, others in import_graph(package).items()
        for other in others
        if other.partition(".")[0] not in ALLOWED[package] | {package}
    }
    assert foreign == set()


def test_no_file_is_longer_than_one_can_read() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in sources(*OF_READABLE_LENGTH)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


# That the tests above could fail.


def test_every_form_of_an_import_is_read() -> None:
    source = (
        "import broker.core as core\n"
        "from broker import events\n"
        "from . import states\n"
        "from .agenda import Agenda\n"
        "if TYPE_CHECKING:\n    from broker.shell import Shell\n"
        "def late():\n    import broker.doors\n"
    )
    assert set(imported_names(ROOT / "broker" / "new.py", source)) == {
        "broker.core",
        "broker.events",
        "broker.states",
        "broker.agenda.Agenda",
        "broker.shell.Shell",
        "broker.doors",
    }


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set()}
    assert find_circle(graph) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_an_arrow_upwards_is_found() -> None:
    layers = [["low", "beside"], ["high"]]
    assert arrows_upwards({"high": {"low"}}, layers) == []
    assert arrows_upwards({"low": {"high"}}, layers) == ["low imports high"]
    assert arrows_upwards({"low": {"beside"}}, layers) == ["low imports beside"]


def test_a_folder_is_one_room() -> None:
    graph = {"w.a.x": {"w.b.y", "w.a.z"}, "w.a.z": {"w.c"}, "w.c": set[str]()}
    assert between_rooms(graph, "w") == {"w.a": {"w.b", "w.c"}, "w.c": set()}
