"""One site with a gateway that all harmless tests share, and empty ones for those that kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.local.processes import Processes
from tests.broker.gateway.site import RunningGateway, Site


@pytest.fixture(scope="session")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker with the workers `echo`, `faulty` and `staged`, whose gate is open unless closed."""
    folder = tmp_path_factory.mktemp("gateway")
    with Processes(folder) as processes:
        site = Site(processes, folder)
        site.stack.broker()
        site.stack.open_gate()
        workers = [
            site.stack.worker("echo"),
            site.stack.staged("Faulty", "faulty"),
            site.stack.gate("staged"),
        ]
        for worker in workers:
            worker.wait_ready()
        yield site
        site.stack.open_gate()
        site.stack.close()
        assert all(worker.is_alive() for worker in workers)


@pytest.fixture(scope="session")
def gateway(shared_site: Site) -> Iterator[RunningGateway]:
    """A gateway with Api-Keys before the shared site."""
    running: RunningGateway = shared_site.gateway(
        shared_site.keys(), "max_bytes=4000000", "send_s=1", "handshake_s=1"
    )
    running.process.wait_ready()
    yield running
    running.process.check()
    assert "Traceback" not in running.process.log.read_text()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site of the test's own, with nothing started yet."""
    with Processes(tmp_path / "logs") as processes:
        site = Site(processes, tmp_path)
        yield site
        site.stack.open_gate()
        site.stack.close()
