"""What the broker tells of teams, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from broker.gateway.broker_metrics import BrokerMetrics
from broker.gateway.feeds import Told
from broker.status import report
from broker.teams import Team
from tests.broker.scenario import Scenario


def test_teams_are_told_with_time_and_refusals() -> None:
    story = Scenario(teams={"lab": Team(["arm"], max_requests=1)})
    story.join("w")
    story.ask("arm")
    story.ask("arm", session="another")
    story.after(0.5)
    story.finish("w")
    story.ask("arm", traffic="evaluation")
    metrics, registry = BrokerMetrics(), CollectorRegistry()
    core = story.core
    status = report(core.telemetry, core.pool, core.inflight, (), story.now)
    metrics.take([Told("tcp://a:8000", status, "")])
    registry.register(metrics)
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        'zmq_policy_team_inference_seconds_total{team="lab",traffic="live"} 0.5',
        'zmq_policy_team_refused_total{quota="max_requests",team="lab"} 1.0',
        'zmq_policy_team_requests{team="lab"} 1.0',
    ):
        assert line in lines
