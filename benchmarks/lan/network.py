"""Three hosts of a LAN on this machine: network namespaces, and a link between every two of them.

The robot's, the broker's and the worker's. Nothing leads out of them, and their addresses are of
the block that is kept for documentation (RFC 5737), so nothing can reach a real host. Needs root
and `ip` (iproute2). What is left of a run that was killed is removed by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.lan.links import Link, LinkError, build_emulator, emulator, netem
from benchmarks.transport.hosts import Host, Site
from scripts.local.processes import Processes

ADDRESSES = {"robot": "192.0.2.1", "broker": "192.0.2.2", "worker": "192.0.2.3"}
PAIRS = tuple(itertools.combinations(ADDRESSES, 2))
_TUN = Path("/dev/net/tun")
_NAME = re.compile(r"^lan-(\d+)-\w+")
_START_S = 10.0
_PACKETS = "2000"  # that may wait to be taken from a device: more than `queue_bytes` of them

Run = Callable[[Sequence[str]], str]


def check(pinned: bool) -> None:
    """Make sure that hosts can be made here, and be `pinned` to cores.

    Raises:
        LinkError: something is missing; the message says what.
    """
    if os.geteuid() != 0:
        raise LinkError("network namespaces need root: run this as root, or with sudo")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise LinkError(f"`{program}` is needed: install iproute2")
    if pinned and len(os.sched_getaffinity(0)) < 2:
        raise LinkError("pinning needs two cores: add --unpinned")


def run(command: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        LinkError: it fails; the message has its complaint.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LinkError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class Network:
    """The hosts with links of one kind, once it was entered; leaving it removes all of it."""

    def __init__(self, link: Link, work: Path, congestion: str, run: Run = run) -> None:
        """`work` is the folder for the emulators and their logs; `congestion` is TCP's control."""
        self._link, self._work, self._congestion, self._run = link, work, congestion, run
        self._processes = Processes(work)
        self._stack = contextlib.ExitStack()
        self.kind = "veth"

    def __enter__(self) -> Network:
        with contextlib.ExitStack() as stack:
            remove_leftovers(self._run)
            for host in ADDRESSES:
                stack.callback(self._remove, host)
                self._make_host(host)
            # Emulators hold devices inside the hosts: they end first.
            stack.enter_context(self._processes)
            self._make_links()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def site(self) -> Site:
        """Where things run."""
        hosts = {name: Host(address, self._inside(name)) for name, address in ADDRESSES.items()}
        return Site(**hosts, emulators=self._processes.all)

    def cut(self, host: str, other: str) -> None:
        """Let nothing pass between the two: pull the plug at `other`."""
        self._ip(other, "link", "set", f"to-{host}", "down")

    def mend(self, host: str, other: str) -> None:
        """Let everything pass again."""
        self._ip(other, "link", "set", f"to-{host}", "up")

    def _make_host(self, host: str) -> None:
        self._run(["ip", "netns", "add", _namespace(host)])
        self._ip(host, "link", "set", "lo", "up")
        self._ip(host, "address", "add", f"{ADDRESSES[host]}/32", "dev", "lo")
        idle = int(self._link.slow_start_after_idle)
        self._set(host, "tcp_congestion_control", self._congestion)
        self._set(host, "tcp_slow_start_after_idle", str(idle))

    def _make_links(self) -> None:
        if not self._link.is_shaped:
            self.kind = "veth"
        elif self._has_netem():
            self.kind = "veth and netem"
        else:
            self.kind = "tunlink"
        for seed, (host, other) in enumerate(PAIRS, 1):
            if self.kind == "tunlink":
                self._emulate(host, other, seed)
            else:
                self._join(host, other)
            for here, there in ((host, other), (other, host)):
                device = f"to-{there}"
                peer = ("peer", f"{ADDRESSES[there]}/32")
                self._ip(here, "address", "add", ADDRESSES[here], *peer, "dev", device)
                self._ip(here, "link", "set", device, "txqueuelen", _PACKETS, "up")

    def _join(self, host: str, other: str) -> None:
        pair = ("type", "veth", "peer", "name", f"to-{host}", "netns", _namespace(other))
        self._ip(host, "link", "add", f"to-{other}", *pair)
        if not self._link.is_shaped:
            return
        for here, there in ((host, other), (other, host)):
            device = f"to-{there}"
            # Packets as on a wire: else netem would lose or delay 64 KB at a time.
            self._ip(here, "link", "set", device, "gso_max_segs", "1")
            where = ["qdisc", "add", "dev", device, "root"]
            self._run([*self._inside(here), "tc", *where, *netem(self._link)])

    def _emulate(self, host: str, other: str, seed: int) -> None:
        if not _TUN.exists():
            raise LinkError(f"this kernel has neither netem nor {_TUN}: measure --links unshaped")
        program = build_emulator(self._work)
        ends = (f"to-{other}", f"to-{host}")
        command = [*self._inside(host), *emulator(program, self._link, ends, seed)]
        process = self._processes.start_command(f"link {host} {other}", command, talks=True)
        process.answer(_START_S)
        self._ip(host, "link", "set", ends[1], "netns", _namespace(other))

    def _has_netem(self) -> bool:
        """Tried on the loopback device of a host of ours."""
        command = [*self._inside("robot"), "tc", "qdisc", "replace", "dev", "lo", "root", "netem"]
        try:
            self._run(command)
        except LinkError:
            return False
        self._run([*self._inside("robot"), "tc", "qdisc", "del", "dev", "lo", "root"])
        return True

    def _set(self, host: str, setting: str, value: str) -> None:
        words = "echo $1 > /proc/sys/net/ipv4/$0"
        self._run([*self._inside(host), "sh", "-c", words, setting, value])

    def _ip(self, host: str, *words: str) -> None:
        self._run(["ip", "-n", _namespace(host), *words])

    def _inside(self, host: str) -> list[str]:
        return ["ip", "netns", "exec", _namespace(host)]

    def _remove(self, host: str) -> None:
        """Its devices go with it."""
        with contextlib.suppress(LinkError):  # it was never made
            self._run(["ip", "netns", "delete", _namespace(host)])


def remove_leftovers(run: Run = run) -> None:
    """Remove the hosts of runs that were killed before they could."""
    for name in leftovers(run(["ip", "netns", "list"]), lambda pid: Path(f"/proc/{pid}").exists()):
        with contextlib.suppress(LinkError):  # another run was faster
            run(["ip", "netns", "delete", name])


def leftovers(listed: str, is_alive: Callable[[int], bool]) -> Iterator[str]:
    """Those of our hosts in `ip netns list` whose run is no more."""
    for line in listed.splitlines():
        found = _NAME.match(line)
        if found and not is_alive(int(found[1])):
            yield found[0]


def _namespace(host: str) -> str:
    return f"lan-{os.getpid()}-{host}"
