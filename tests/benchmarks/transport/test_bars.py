"""Ratios are of medians under the same conditions, and each bar is held."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.transport.bars import figures, last_line, ratio_tables
from benchmarks.transport.cells import Cell, Cells, Conditions, save, tables
from benchmarks.transport.teams import Result

ALONE = Conditions(robots=1, pinned=True, size="libero", rate_hz=0.0)


def cell(
    *latencies_us: float, broker_us: float = 200.0, broker_mb: float = 50.0, served: float = 1000.0
) -> Cell:
    """One turn that took so long each."""
    cpu = {"robot": 100.0, "broker": broker_us, "worker": 100.0}
    memory = {"broker": broker_mb, "worker": 60.0}
    return Cell([Result(list(latencies_us), served, cpu, memory, others_cores=0.0)])


def value_of(cells: Cells, name: str) -> tuple[float, bool]:
    """The figure of that name, and whether it is within its bar."""
    found = [figure for figure in figures(cells) if name in figure.name]
    assert len(found) == 1, [figure.name for figure in figures(cells)]
    return round(found[0].value, 9), found[0].passes


@pytest.mark.parametrize(
    ("way", "other", "size", "rate_hz", "bar"),
    [
        ("ours", "sketch", "libero", 0.0, 1.15),
        ("ours", "sketch", "libero", 50.0, 1.15),
        ("ours", "openpi", "libero", 0.0, 0.65),
        ("ours", "openpi", "libero", 50.0, 0.9),
        ("ours", "openpi", "camera", 0.0, 0.30),
        ("ours", "openpi", "camera", 50.0, 0.38),
        ("ours, memory", "openpi", "libero", 50.0, 0.6),
        ("ours, memory", "openpi", "camera", 0.0, 0.12),
    ],
)
def test_these_ratios_have_bars(
    way: str, other: str, size: str, rate_hz: float, bar: float
) -> None:
    conditions = Conditions(1, True, size, rate_hz, "cubic")
    for ratio, passes in ((round(bar - 0.01, 2), True), (round(bar + 0.01, 2), False)):
        ours = cell(1.0, ratio * 1000.0, 90_000.0)
        cells = {(conditions, way): ours, (conditions, other): cell(1000.0)}
        assert value_of(cells, f"p50 of {way} over {other}'s") == (ratio, passes)


@pytest.mark.parametrize(("way", "bar"), [("ours", 0.9), ("ours, memory", 1.3)])
def test_many_robots_at_saturation_have_a_bar(way: str, bar: float) -> None:
    crowd = Conditions(16, False, "libero", 0.0)
    for ratio, passes in ((bar + 0.01, True), (bar - 0.01, False)):
        cells = {
            (crowd, way): cell(1.0, served=ratio * 500.0),
            (crowd, "openpi"): cell(1.0, served=500.0),
        }
        assert value_of(cells, f"answers a second of {way} over") == (round(ratio, 9), passes)


@pytest.mark.parametrize(("cpu_us", "passes"), [(239.0, True), (241.0, False)])
def test_the_brokers_cpu_is_held_to_the_sketchs(cpu_us: float, passes: bool) -> None:
    ours, sketch = cell(1.0, broker_us=cpu_us), cell(1.0, broker_us=200.0)
    cells = {(ALONE, "ours"): ours, (ALONE, "sketch"): sketch}
    assert value_of(cells, "broker's CPU a request over sketch's")[1] == passes


def test_other_ratios_are_only_printed() -> None:
    cells = {(ALONE, "ours"): cell(900.0), (ALONE, "raw tcp"): cell(100.0)}
    assert value_of(cells, "over raw tcp's") == (9.0, True)


def test_conditions_are_not_mixed() -> None:
    other = Conditions(robots=1, pinned=False, size="libero", rate_hz=0.0)
    cells = {(ALONE, "ours"): cell(900.0), (other, "openpi"): cell(100.0)}
    assert not any(" over " in figure.name for figure in figures(cells))
    assert not last_line(cells)


@pytest.mark.parametrize(("cpu_us", "passes"), [(349.0, True), (351.0, False)])
def test_the_brokers_cpu_has_a_bar(cpu_us: float, passes: bool) -> None:
    cells = {(Conditions(1, True, "aloha", 0.0), "ours"): cell(1.0, broker_us=cpu_us)}
    assert value_of(cells, "broker's CPU") == (cpu_us, passes)


@pytest.mark.parametrize(("megabytes", "passes"), [(99.0, True), (101.0, False)])
def test_the_brokers_memory_has_a_bar(megabytes: float, passes: bool) -> None:
    cells = {(Conditions(16, False, "aloha", 50.0), "ours"): cell(1.0, broker_mb=megabytes)}
    assert value_of(cells, "broker's memory") == (megabytes, passes)


def test_figures_with_a_bar_come_first_and_the_last_line_has_all_ratios() -> None:
    slow = Conditions(1, True, "libero", 10.0)
    cells = {
        (ALONE, "ours"): cell(500.0),
        (ALONE, "openpi tuned"): cell(400.0),
        (ALONE, "openpi"): cell(1000.0),
        (slow, "ours"): cell(800.0),
        (slow, "openpi"): cell(1000.0),
    }
    assert [figure.bar is None for figure in figures(cells)] == [False, *[True] * 4]
    assert last_line(cells).endswith("libero 301 KB: 0.50 back to back, 0.80 10 Hz")


def test_turns_are_pooled_and_saved(tmp_path: Path) -> None:
    gathered = Cell([*cell(100.0, 200.0).turns, *cell(300.0, broker_us=400.0).turns])
    cells = {(ALONE, "ours"): gathered}
    save(tmp_path / "new" / "results.json", cells, figures(cells), "the end")
    saved = json.loads((tmp_path / "new" / "results.json").read_text())
    row = saved["cells"][0]
    assert (row["peer"], row["size"], row["robots"], row["pinned"]) == ("ours", "libero", 1, True)
    assert (row["requests"], row["p50_us"], row["p99_us"]) == (3, 200.0, 298.0)
    assert row["cpu_us"]["broker"] == 300.0
    assert saved["last_line"] == "the end"
    assert {"measured", "machine", "kernel", "packages", "others_cores"} <= saved.keys()


def test_the_ratio_table_has_what_was_measured() -> None:
    other = Conditions(robots=16, pinned=True, size="libero", rate_hz=0.0)
    cells = {
        (ALONE, "ours"): cell(500.0),
        (ALONE, "openpi"): cell(1000.0),
        (other, "ours"): cell(500.0),
        (other, "raw tcp"): cell(100.0),
    }
    (table,) = ratio_tables(cells)
    assert [list(column.cells) for column in table.columns] == [
        ["libero 301 KB"],
        ["back to back"],
        [""],
        ["0.50"],
        [""],
    ]


def test_each_setting_has_a_table() -> None:
    crowd = Conditions(robots=4, pinned=False, size="libero", rate_hz=0.0)
    cells = {(each, peer): cell(1.0) for each in (ALONE, crowd) for peer in ("ours", "openpi")}
    assert [table.row_count for table in tables(cells)] == [2, 2]
