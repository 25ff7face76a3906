"""What the gateway costs its own clients, and what robots at the broker notice of it.

    python -m benchmarks.gateway

Four parts. stock: openpi's own client, as published, through the gateway and at openpi's own server
in turns, one robot, 301 KB, a policy that answers at once. eight: as many such robots, and two
workers of 20 ms beside one openpi server of 20 ms. beside: four robots that ask the broker directly
at 10 Hz, with a gateway, an open page and a recorder at that broker, and at another one without, in
turns. page: the gateway's CPU time while a hundred robots at 2 Hz are on an open page. Exit code 1
if a figure misses its bar. Run it on a quiet machine.
"""

from __future__ import annotations

from conf.flags import INTERRUPTED, Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import asyncio
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.figures import Figure, save, table
from benchmarks.load import websocket_robots
from benchmarks.load.kinds import Kind
from benchmarks.load.robots import Robots
from benchmarks.neighbours import BUSY, Neighbours
from benchmarks.openpi_venv import openpi_environment, openpi_python
from benchmarks.transport.observations import ACTION_DIM, HORIZON, make_observation
from benchmarks.transport.pacing import Taken, Turn
from scripts.local.deployment import Deployment
from scripts.local.processes import Process, ProcessError, Processes, free_ports
from scripts.local.timing import percentile

RESULT = Path("benchmarks/results/gateway.json")
LOGS = Path("outputs/gateway")
ROUNDS = 5
ROBOTS, ROBOTS_HZ = 4, 10.0
CROWD, CROWD_HZ = 100, 2.0
_PATIENCE_S = 90.0
_WARM_S = 1.0
_WORKER = ("policy=noop", f"policy.action_horizon={HORIZON}", f"policy.action_dim={ACTION_DIM}")


class Gateway:
    """A gateway at a broker on loopback, with its ports."""

    def __init__(self, processes: Processes, broker: int, *settings: str) -> None:
        """Start it and wait until it is ready."""
        self.page, self.openpi = free_ports(2)
        self.process = processes.start(
            "gateway",
            "broker.gateway",
            f"broker=tcp://127.0.0.1:{broker}",
            f"http.listen=127.0.0.1:{self.page}",
            f"openpi.listen=127.0.0.1:{self.openpi}",
            *settings,
        )
        self.process.wait_ready()

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Somebody has the page open, and reads all that it is told."""
        url = f"http://127.0.0.1:{self.page}/events"
        over = threading.Event()
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as stream:

            def read() -> None:
                while not over.is_set() and stream.readline():
                    pass

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            try:
                yield
            finally:
                over.set()
                reader.join()


def stock(processes: Processes, seconds: float) -> list[Figure]:
    """The p50 of openpi's client through the gateway, over the same at openpi's server."""
    stage = _stage(processes, 1, *_WORKER)
    (direct,) = free_ports(1)
    _start_openpi(processes, "openpi", "benchmarks.peers.server", "openpi", "serve", direct)
    gateway = Gateway(processes, stage.port)
    robots = {
        "through the gateway": _robot(processes, "openpi", gateway.openpi, is_stock=True),
        "at openpi's server": _robot(processes, "openpi", direct, is_stock=True),
    }
    figures = []
    for rate_hz in (0.0, 50.0):
        turns = {name: [robot] for name, robot in robots.items()}
        p50 = {name: percentile(50)(took) for name, took in _turns(turns, rate_hz, seconds).items()}
        pace = f"{rate_hz:g} Hz" if rate_hz else "back to back"
        figures += [
            Figure(f"openpi's client {name}, {pace}, p50", each / 1e3, "ms")
            for name, each in p50.items()
        ]
        through, at = p50.values()
        figures.append(Figure(f"  the one over the other, {pace}", through / at, "", 1.6))
    return figures


def eight(processes: Processes, seconds: float) -> list[Figure]:
    """Eight robots back to back: two workers behind the gateway, and one openpi server."""
    stage = _stage(processes, 2, *_WORKER, "policy.time_s=0.02")
    (direct,) = free_ports(1)
    _start_openpi(processes, "openpi", "benchmarks.load.openpi_server", direct, 0.02)
    gateway = Gateway(processes, stage.port)
    observation, kinds = make_observation("libero"), [Kind("at once", 0.001, 60.0)] * 8
    rates = {}
    for name, port in (("through the gateway", gateway.openpi), ("at openpi's server", direct)):
        asyncio.run(websocket_robots.wait_for_servers([port]))
        tally = websocket_robots.run([port], kinds, observation, _WARM_S, ROUNDS * seconds)
        rates[name] = tally.answers_per_s(tally.wishes)
    through, at = rates.values()
    return [
        *(Figure(f"8 robots {name}", rate, "a second") for name, rate in rates.items()),
        Figure("  the one over the other", through / at, "", 1.8, at_least=True),
    ]


def beside(processes: Processes, seconds: float) -> list[Figure]:
    """Robots at a broker with gateway, page and recorder, and at one without; in turns."""
    tap = f"ipc://{(LOGS / 'tap').absolute()}"
    watched = _stage(processes, 1, *_WORKER, broker=[f"tap={tap}"])
    alone = _stage(processes, 1, *_WORKER)
    gateway = Gateway(processes, watched.port, f"tap={tap}")
    recorder = processes.start(
        "recorder", "scripts.record", str(LOGS / "recorded"), "--tap", tap, "--rotate"
    )
    robots = {
        name: [_robot(processes, "ours", stage.port, number) for number in range(ROBOTS)]
        for name, stage in (("with all three", watched), ("without", alone))
    }
    with gateway.looked_at():
        took = _turns(robots, ROBOTS_HZ, seconds)
    recorder.check()
    figures = [
        Figure(f"{ROBOTS} robots at {ROBOTS_HZ:g} Hz {name}, p{rank}", each / 1e3, "ms")
        for name, latencies in took.items()
        for rank, each in ((50, percentile(50)(latencies)), (99, percentile(99)(latencies)))
    ]
    for rank, bar in ((50, None), (99, 1.1)):
        with_all, without = (percentile(rank)(latencies) for latencies in took.values())
        figures.append(Figure(f"  with over without, p{rank}", with_all / without, "", bar))
    return figures


def page(processes: Processes, seconds: float) -> list[Figure]:
    """What the gateway takes of a core while a crowd is on the open page."""
    stage = _stage(processes, 2, *_WORKER)
    gateway = Gateway(processes, stage.port)
    kinds = [Kind("2 Hz", 1.0 / CROWD_HZ, 1.0)] * CROWD
    observation = {"state": make_observation("libero")["state"]}
    with gateway.looked_at(), Robots(stage.port, kinds, observation) as robots:
        robots.run(0.0, 2.0)
        before, began = gateway.process.cpu_seconds(), time.monotonic()
        robots.run(0.0, ROUNDS * seconds)
        used = gateway.process.cpu_seconds() - before
        share = 100.0 * used / (time.monotonic() - began)
    return [Figure(f"{CROWD} robots at {CROWD_HZ:g} Hz on the page, of a core", share, "%", 10.0)]


PARTS: dict[str, Callable[[Processes, float], list[Figure]]] = {
    "stock": stock,
    "eight": eight,
    "beside": beside,
    "page": page,
}


def _stage(
    processes: Processes, workers: int, *settings: str, broker: Sequence[str] = ()
) -> Deployment:
    room = "limits.max_requests_per_robot=100"  # the gateway's clients are one robot without keys
    stage = Deployment(processes, workers, settings, broker_settings=[room, *broker])
    stage.wait_ready()
    return stage


def _start_openpi(
    processes: Processes, name: str, module: str, *words: object, talks: bool = False
) -> Process:
    """Start a module in openpi's environment; a server listens at loopback."""
    given = [str(word) for word in words]
    if module == "benchmarks.peers.server":
        given.insert(2, "127.0.0.1")
    return processes.start_command(
        name,
        [str(openpi_python()), "-m", module, *given],
        environment=openpi_environment(),
        talks=talks,
    )


def _robot(
    processes: Processes, module: str, port: int, number: int = 0, *, is_stock: bool = False
) -> Process:
    """A robot in a process of its own, once it was answered as it should be."""
    words = (module, "127.0.0.1", str(port), "libero")
    name = f"robot {module} {port} {number}"
    if is_stock:
        robot = _start_openpi(processes, name, "benchmarks.peers.robot", *words, talks=True)
    else:
        command = [sys.executable, "-m", "benchmarks.peers.robot", *words]
        robot = processes.start_command(name, command, talks=True)
    robot.answer(_PATIENCE_S)
    return robot


def _turns(
    teams: dict[str, list[Process]], rate_hz: float, seconds: float
) -> dict[str, list[float]]:
    """Have teams of robots take turns; their latencies in microseconds, by team."""
    took: dict[str, list[float]] = {name: [] for name in teams}
    for _ in range(ROUNDS):
        for name, robots in teams.items():
            for number, robot in enumerate(robots):
                robot.tell(asdict(Turn(rate_hz, seconds, number / len(robots))))
            for robot in robots:
                taken = Taken(**robot.answer(seconds + _PATIENCE_S))
                took[name] += taken.latencies_us
    return took


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 all within their bars, 1 not, or a process failed; 130 after Ctrl-C."""
    parser = Flags("python -m benchmarks.gateway", __doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument(
        "--seconds", type=between(0.1, 600.0, float), default=2.0, help="a turn (2)"
    )
    parser.add_argument("--result", type=Path, default=RESULT, help=f"JSON file ({RESULT})")
    options = parser.read(arguments)
    console, figures = Console(highlight=False), list[Figure]()
    for name, measure in PARTS.items():
        if options.only and name not in options.only:
            continue
        try:
            with console.status(name), Processes(LOGS / name) as processes:
                neighbours = Neighbours()
                found = measure(processes, options.seconds)
                own_s = time.process_time() + sum(
                    each.cpu_seconds() for each in processes.all if each.is_alive()
                )
                others = neighbours.cores(own_s)
        except KeyboardInterrupt:
            return INTERRUPTED
        except (ProcessError, RuntimeError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        console.print(table(name, found))
        if others > BUSY:
            console.print(f"[bold]others kept {others:.1f} cores busy: not to be trusted[/bold]")
        save(options.result, name, found, {"busy": others > BUSY, "others_cores": others})
        figures += found
    return 0 if all(figure.passes for figure in figures) else 1


if __name__ == "__main__":
    run_command(main)
