"""The commands of `docs/moving` are ones that the programs take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.openpi_venv import ROOT
from broker.gateway.config import GatewayConfig
from conf.compose import compose

PAGES = sorted((ROOT / "docs" / "moving").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_settings_of_the_gateway_are_there(page: Path) -> None:
    text = page.read_text()
    settings = re.findall(r"\b((?:openpi|lerobot|groot)\.\w+=[\w.:]+)`", text)
    assert settings
    for setting in settings:
        compose("gateway", GatewayConfig, [setting]).check()


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_files_that_it_names_are_there(page: Path) -> None:
    text = page.read_text()
    assert all((ROOT / name).exists() for name in re.findall(r"`(conf/\S+?)`", text))
