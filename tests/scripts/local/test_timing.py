"""Stages add up to the total, and the table shows the right statistics."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from scripts.local.timing import (
    by_stage,
    largest,
    latency_table,
    mean,
    percentile,
    sides,
    stages,
    standard_deviation,
)

RESULT = {
    "client_timing": {"encode_ms": 1.0, "network_ms": 4.0, "decode_ms": 2.0, "total_ms": 30.0},
    "server_timing": {"queue_ms": 3.0, "decode_ms": 0.5, "infer_ms": 17.0, "encode_ms": 0.25},
    "policy_timing": {"infer_ms": 17.0, "transform_ms": 5.0, "model_ms": 11.0},
}


def test_stages_add_up() -> None:
    measured = stages(RESULT)
    assert measured == {
        "encode": 1.25,
        "network and queue": 10.25,
        "transforms": 5.0,
        "model": 11.0,
        "decode": 2.5,
        "total": 30.0,
    }
    assert sum(measured.values()) == 2 * measured["total"]


def test_sides_add_up() -> None:
    assert sides(RESULT) == {
        "client": 3.0,
        "network and queue": 9.25,
        "worker": 17.75,
        "total": 30.0,
    }


def test_a_policy_without_timing_counts_as_model() -> None:
    measured = stages({**RESULT, "policy_timing": {}})
    assert (measured["transforms"], measured["model"]) == (0.0, 17.0)


def test_statistics() -> None:
    values = [1.0, 2.0, 3.0, 10.0]
    assert percentile(50)(values) == 2.5
    assert mean(values) == 4.0
    assert standard_deviation(values) == pytest.approx(3.5355339)
    assert largest(values) == 10.0


def test_table_has_a_row_for_each_stage() -> None:
    samples = by_stage([{"model": 1.0, "total": 2.0}, {"model": 3.0, "total": 7.0}])
    assert samples == {"model": [1.0, 3.0], "total": [2.0, 7.0]}
    screen = io.StringIO()
    table = latency_table(samples, {"mean": mean, "max": largest})
    Console(file=screen, width=80).print(table)
    words = screen.getvalue().replace("│", " ").replace("┃", " ").split()
    model, total = words.index("model"), words.index("total")
    assert words[model + 1 : model + 3] == ["2.00", "3.00"]
    assert words[total + 1 : total + 3] == ["4.50", "7.00"]


def test_no_requests_no_stages() -> None:
    assert by_stage([]) == {}


def test_eight_columns_fit_eighty_characters() -> None:
    samples = {"network and queue": [12345.678], "total": [123.456]}
    screen = io.StringIO()
    table = latency_table(samples, {f"p{rank}": largest for rank in range(90, 98)})
    Console(file=screen, width=80).print(table)
    assert screen.getvalue().count("12346") == 8
    assert screen.getvalue().count("123.5") == 8
    assert "network and queue" in screen.getvalue()
