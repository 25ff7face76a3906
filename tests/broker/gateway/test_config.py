"""The gateway's settings: what is refused, and in which words."""

from __future__ import annotations

import pytest

from broker.gateway.config import GatewayConfig
from conf.compose import ConfigError, compose


def composed(*overrides: str) -> GatewayConfig:
    return compose("gateway", GatewayConfig, overrides)


def test_the_defaults_serve_openpi_and_the_page_on_this_machine() -> None:
    config = composed()
    assert config == GatewayConfig()
    assert config.http.listen == "127.0.0.1:8002"
    assert config.openpi.listen == "127.0.0.1:8003"
    assert "openpi" in config.dialects()


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("openpi.listen=8003", "HOST:PORT"),
        ("openpi.listen=127.0.0.1:99999", "port from 1 to 65535"),
        ("openpi.listen=0.0.0.0:8003", "open to other machines"),
        ("openpi.listen=robots.example:8003", "open to other machines"),
        ("openpi.listen=127.0.0.1:8002", "are the same"),
        ("broker=localhost", "tcp://HOST:PORT"),
        ("broker=null", "tcp://HOST:PORT"),
        ("broker=8000", "tcp://HOST:PORT"),
        ("broker=[]", "a list of 1 to 16"),
        ("broker=[tcp://a:8000,b]", "a list of 1 to 16"),
        ("broker=[tcp://a:8000,1]", "a list of 1 to 16"),
        ("deadline_s=0", "seconds from more than 0"),
        ("send_s=-1", "seconds from more than 0"),
        ("max_bytes=0", "from 1 to"),
        ("max_robots=20000", "from 1 to 10000"),
        ("log_format=xml", "text or json"),
        ("log_level=loud", "debug, info"),
        ("opnpi.listen=null", "did you mean"),
        ("origins=all", "a list is expected"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        composed(override)


def test_other_machines_need_keys_or_a_word_that_they_do_not() -> None:
    assert composed("openpi.listen=0.0.0.0:8003", "insecure=true").insecure
    assert composed("openpi.listen=0.0.0.0:8003", "api_keys=keys.json").api_keys == "keys.json"
    with pytest.raises(ConfigError, match="contradict"):
        composed("insecure=true", "api_keys=keys.json")


@pytest.mark.parametrize(
    "given", ["[tcp://a:8000,ipc:///b,tcp://a:8000]", "'tcp://a:8000, ipc:///b'"]
)
def test_several_brokers_are_a_list_in_order(given: str) -> None:
    assert composed(f"broker={given}").brokers() == ["tcp://a:8000", "ipc:///b"]
