"""One gateway that speaks all dialects but openpi's, before the shared site."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker.gateway.site import RunningGateway, Site

SECTIONS = ("http", "groot", "lerobot", "roboarena", "openvla", "starvla", "vla_eval", "sglang")


@pytest.fixture(scope="session")
def dialects(shared_site: Site) -> Iterator[RunningGateway]:
    """With Api-Keys, and without mappings but GR00T's and LeRobot's."""
    running: RunningGateway = shared_site.gateway(
        shared_site.keys(),
        "openpi.listen=null",
        "max_bytes=8000000",
        "handshake_s=1",
        "roboarena.mapping=null",
        "openvla.mapping=null",
        "starvla.mapping=null",
        "sglang.mapping=null",
        "vla_eval.mapping=null",
        "vla_eval.chunk=2",
        "lerobot.wait_s=0.3",
        sections=SECTIONS,
    )
    running.process.wait_ready()
    yield running
    running.process.check()
    assert "Traceback" not in running.process.log.read_text()
