"""The broker's defaults stand in one place, and what must agree with them does."""

from __future__ import annotations

import re

from broker.config import BrokerConfig
from client.policy_client import DEFAULT_PORT
from conf.compose import FOLDER, compose


def test_the_defaults_are_those_of_the_file() -> None:
    stated = compose("broker", BrokerConfig, [])
    assert stated == BrokerConfig()
    changed = compose("broker", BrokerConfig, ["limits.max_bytes=17000000"])
    assert changed.limits.max_bytes == BrokerConfig().limits.max_bytes + 1_000_000


def test_peers_look_for_the_broker_where_it_listens_by_default() -> None:
    # A robot installs neither conf/ nor broker/, and a worker not broker/: they state it again.
    config = BrokerConfig()
    assert config.frontend.endswith(f":{DEFAULT_PORT}")
    workers = re.search(r"^broker: (\S+)$", (FOLDER / "worker.yaml").read_text(), re.MULTILINE)
    assert workers is not None
    assert workers[1] == config.backend
