"""What each process of a fleet is told: the words after `python -m`."""

from __future__ import annotations

from scripts.fleet.config import BrokerSettings, FleetConfig


def worker_words(config: FleetConfig, policy: str) -> list[str]:
    """The settings of a policy's workers."""
    where = _listed([f"tcp://{each.host}:{each.backend}" for each in config.brokers.values()])
    settings = config.policies[policy]
    version = [] if settings.version is None else [f"version={settings.version}"]
    return [*settings.worker, f"name={policy}", *version, f"broker={where}"]


def broker_words(config: FleetConfig, name: str) -> list[str]:
    """The settings of one broker, which knows all policies from the start."""
    broker = config.brokers[name]
    return [
        f"frontend={frontend(broker)}",
        f"backend=tcp://{broker.host}:{broker.backend}",
        f"policies=[{','.join(map(config.served, config.policies))}]",
        *broker.settings,
    ]


def gateway_words(config: FleetConfig) -> list[str]:
    """The settings of the gateway."""
    where = _listed([frontend(each) for each in config.brokers.values()])
    return [f"broker={where}", *config.gateway.settings]


def frontend(broker: BrokerSettings) -> str:
    """Where robots reach a broker."""
    return f"tcp://{broker.host}:{broker.frontend}"


def _listed(addresses: list[str]) -> str:
    return addresses[0] if len(addresses) == 1 else f"[{','.join(addresses)}]"
