"""Robots of clients without a connection: one for each key, ended when nobody uses them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from broker.gateway.access import ANYONE
from broker.gateway.config import GatewayConfig, GrootSettings
from broker.gateway.gateway import Gateway
from broker.gateway.peers import Peers
from client.errors import Overloaded


def gateway(folder: Path, **settings: Any) -> Gateway:
    """One whose broker never comes; nothing here asks it."""
    groot = GrootSettings(listen="127.0.0.1:5555")
    broker = f"ipc://{folder}/broker"
    return Gateway(GatewayConfig(broker=broker, groot=groot, **settings))


def test_a_key_keeps_its_robot_until_it_is_idle(tmp_path: Path) -> None:
    async def main() -> None:
        made = gateway(tmp_path)
        async with Peers(made, "groot", 0.05) as peers:
            async with peers.use("a", ANYONE) as first, peers.use("b", ANYONE) as other:
                assert first is not other
                async with peers.use("a", ANYONE) as again:
                    assert again is first
                await asyncio.sleep(0.2)
                assert len(made.status()["clients"]) == 2, "what is used is not idle"
            while made.status()["clients"]:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
            async with peers.use("a", ANYONE) as fresh:
                assert fresh is not first
        assert made.status()["clients"] == []

    asyncio.run(asyncio.wait_for(main(), 60))


def test_as_many_are_opened_as_are_used_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        made = gateway(tmp_path, max_robots=2)
        async with Peers(made, "groot", 60) as peers:
            for _ in range(3):
                async with peers.use_free("a", ANYONE):
                    pass
            assert len(made.status()["clients"]) == 1
            async with peers.use_free("a", ANYONE), peers.use_free("a", ANYONE):
                assert len(made.status()["clients"]) == 2
                with pytest.raises(Overloaded, match="max_robots"):
                    async with peers.use_free("a", ANYONE):
                        pass

    asyncio.run(asyncio.wait_for(main(), 60))
