"""The Grafana dashboard: of the form that Grafana reads, and about metrics that there are."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from scripts.prometheus_check import DASHBOARD, queries
from tests.broker.gateway.site import RunningGateway

NAME = re.compile(r"zmq_policy_\w+")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def test_it_has_what_grafana_needs(dashboard: dict[str, Any]) -> None:
    assert dashboard["title"]
    assert dashboard["uid"]
    assert dashboard["schemaVersion"] >= 36
    assert {each["type"] for each in dashboard["templating"]["list"]} == {"datasource", "query"}
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] in ("timeseries", "stat"), panel["title"]
        assert panel["title"]
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["expr"]
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_its_panels_lie_side_by_side(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_it_asks_only_for_metrics_that_there_are(
    dashboard: dict[str, Any], gateway: RunningGateway
) -> None:
    text = gateway.get("/metrics")[1]
    told: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        told |= {name + ending for ending in endings}
    asked = {name for query in queries(dashboard) for name in NAME.findall(query)}
    assert len(asked) > 10
    assert asked <= told
