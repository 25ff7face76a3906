"""One broker for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.local.processes import Processes
from tests.scripts.rollout.site import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests of a module, each with a name of its own."""
    folder = tmp_path_factory.mktemp("rollout")
    with Processes(folder / "logs") as processes:
        site = Site(processes, folder)
        yield site
        site.close()
