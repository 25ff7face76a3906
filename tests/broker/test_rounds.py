"""The shell looks at the clock and at signals however much peers send."""

from __future__ import annotations

import threading

from broker.config import BrokerConfig
from broker.shell import Shell
from scripts.local.processes import free_ports


def test_a_peer_that_never_stops_sending_cannot_keep_the_broker_from_stopping() -> None:
    front, back = free_ports(2)
    shell = Shell(
        BrokerConfig(frontend=f"tcp://127.0.0.1:{front}", backend=f"tcp://127.0.0.1:{back}")
    )
    poured = threading.Event()

    def pour() -> None:
        # As when every batch of messages is full: there is always more to read.
        shell._to_read.add(shell._frontend)
        poured.set()

    shell._serve[shell._frontend] = pour
    running = threading.Thread(target=shell.run, daemon=True)
    running.start()
    assert poured.wait(30.0)
    shell.stop("the test is over")
    running.join(30.0)
    assert not running.is_alive()
