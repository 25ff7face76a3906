"""The shell looks at the clock and at signals however much peers send."""

from __future__ import annotations

import threading

import zmq

from broker.config import BrokerConfig
from broker.shell import Shell
from scripts.local.processes import free_ports


def test_a_peer_that_never_stops_sending_cannot_keep_the_broker_from_stopping() -> None:
    front, back = free_ports(2)
    endpoint = f"tcp://127.0.0.1:{front}"
    shell = Shell(BrokerConfig(frontend=endpoint, backend=f"tcp://127.0.0.1:{back}"))
    poured = threading.Event()
    # Nobody takes the message that this peer sends, so there is always one to read.
    shell._serve[shell._frontend] = poured.set
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.connect(endpoint)
        peer.send(b"more")
        running = threading.Thread(target=shell.run, daemon=True)
        running.start()
        assert poured.wait(30.0)
        shell.stop("the test is over")
        running.join(30.0)
    assert not running.is_alive()
