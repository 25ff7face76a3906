"""The Unix sockets beside the doors' TCP ports, which cost peers on this host less than TCP does.

They are closed for good before descriptors run out: libzmq 4.3.5 ends the process where a Unix
socket's listener finds none left, and one of TCP goes on (ipc_listener.cpp and tcp_listener.cpp,
`accept`). Whoever is connected there then comes again by TCP.
"""

from __future__ import annotations

import logging
import os
import resource
from typing import NamedTuple

import zmq

from broker.config import BrokerConfig, addresses, nearby_address
from client.nearby import beside

logger = logging.getLogger("broker")

_SPARE_DESCRIPTORS = 1024


class _Bound(NamedTuple):
    door: zmq.Socket[bytes]
    address: str


class NearbyDoors:
    """Where else the two doors listen, while there are descriptors to spare."""

    def __init__(
        self,
        frontend: zmq.Socket[bytes],
        backend: zmq.Socket[bytes],
        config: BrokerConfig,
        epoch: int,
    ) -> None:
        """Have them listen, unless the configuration says no."""
        self._bound: list[_Bound] = []
        if not config.nearby:
            return
        self._bind(backend, nearby_address(epoch))
        for endpoint in addresses(config.frontend):
            if address := beside(endpoint):
                self._bind(frontend, address)

    @property
    def are_open(self) -> bool:
        """Whether peers may be sent there."""
        return bool(self._bound)

    def close_if_crowded(self) -> None:
        """Connections were accepted: stop listening if a crowd may take the last descriptor."""
        if self._bound and not _has_spare_descriptors():
            for door, address in self._bound:
                door.unbind(address)
            self._bound.clear()
            logger.warning(
                "few file descriptors are left (LimitNOFILE= or ulimit -n): robots and workers on "
                "this host connect by TCP from now on"
            )

    def _bind(self, door: zmq.Socket[bytes], address: str) -> None:
        try:
            door.bind(address)
        except zmq.ZMQError as error:  # somebody else has the name; or not Linux
            logger.info("peers on this host connect by TCP, not at %s: %s", address, error)
        else:
            self._bound.append(_Bound(door, address))


def _has_spare_descriptors() -> bool:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return len(os.listdir("/proc/self/fd")) < most - min(_SPARE_DESCRIPTORS, most // 2)
    except OSError:  # not even one to look with; or not Linux
        return False
