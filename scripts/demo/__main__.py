"""`python -m scripts.demo`: a simulated ALOHA robot, a broker, and two workers, one of which dies.

Starts everything on free loopback ports, drives the robot in chunks, kills one worker with SIGKILL
half-way, and writes a video of what the robot saw and a picture of actions and latencies. All that
it started is stopped when it ends, however it ends.
"""

from __future__ import annotations

from conf.flags import INTERRUPTED, Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import imageio.v2 as imageio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.demo.episode import CONTROL_PERIOD_S, Episode, run_episode
from scripts.local.processes import Process, ProcessError, Processes, free_ports
from scripts.local.timing import by_stage, largest, latency_table, percentile

if TYPE_CHECKING:
    from scripts.demo.simulated_robot import SimulatedRobot

ACTIONS_PER_CHUNK = 10  # of the 50 that the policy gives
MOST_STEPS = 100_000
STEPS_PER_FRAME = 2  # a control step is 20 ms: 25 frames a second in the robot's own time
KILL_AFTER_S = 0.005  # the model takes several times as long
STATISTICS = {"p50": percentile(50), "p95": percentile(95), "max": largest}


class Kill:
    """SIGKILL for the worker that computes the request before control step `at_step`."""

    def __init__(self, workers: list[Process], at_step: int) -> None:
        self.at_step = at_step
        self.victim: Process | None = None
        self._workers = workers

    def before_request(self, step: int) -> None:
        """If this is the request that was chosen, strike while it is in flight."""
        if step != self.at_step:
            return
        used = [worker.cpu_seconds() for worker in self._workers]
        timer = threading.Timer(KILL_AFTER_S, self._strike, [used])
        timer.daemon = True
        timer.start()

    def _strike(self, used: list[float]) -> None:
        """Kill the worker that has computed most since its CPU time was `used`."""
        since = [
            worker.cpu_seconds() - then for worker, then in zip(self._workers, used, strict=True)
        ]
        self.victim = self._workers[since.index(max(since))]
        self.victim.kill()


def start_servers(processes: Processes) -> tuple[int, list[Process]]:
    """Start a broker and two workers; the port for robots, and the workers, none ready yet."""
    front, back = free_ports(2)
    backend = f"tcp://127.0.0.1:{back}"
    broker = processes.start(
        "broker", "broker", f"frontend=tcp://127.0.0.1:{front}", f"backend={backend}"
    )
    worker = ["env=aloha_sim", "model=tiny", f"broker={backend}"]
    # With more threads than free cores every barrier waits for the scheduler: 50 ms become seconds.
    worker.append("runtime.threads=1")
    workers = [processes.start(f"worker {number}", "worker", *worker) for number in (1, 2)]
    broker.wait_ready()
    return front, workers


def drive(
    robot: SimulatedRobot, client: ZmqPolicyClient, steps: int, video: Path, kill: Kill | None
) -> Episode:
    """Run the episode with a progress bar, filming to `video`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    fps = round(1 / (STEPS_PER_FRAME * CONTROL_PERIOD_S))
    writer: Any = imageio.get_writer(video, fps=fps, quality=7)
    with Progress(*columns, TextColumn("control steps"), TimeElapsedColumn()) as progress, writer:
        bar = progress.add_task("two workers", total=steps)

        def before_step(step: int) -> None:
            if step % STEPS_PER_FRAME == 0:
                writer.append_data(robot.picture())
            if kill and kill.victim:
                progress.update(bar, description=f"{kill.victim.name} was killed")
            progress.update(bar, completed=step + 1)

        def before_request(step: int) -> None:
            if kill:
                kill.before_request(step)

        return run_episode(robot, client, steps, ACTIONS_PER_CHUNK, before_step, before_request)


def report(console: Console, episode: Episode, kill: Kill | None, transferred: bool) -> None:
    """The table, who was killed, and what to expect of untrained weights."""
    measured = by_stage([request.stages for request in episode.requests])
    steps, requests = len(episode.actions), len(episode.requests)
    console.print(f"{steps} control steps, {requests} requests, all answered")
    console.print(latency_table(measured, STATISTICS))
    if kill and kill.victim:
        moved, *later = [request for request in episode.requests if request.step >= kill.at_step]
        console.print(
            f"{kill.victim.name} (process {kill.victim.pid}) was killed with SIGKILL "
            f"{1e3 * KILL_AFTER_S:.0f} ms into the request of step {kill.at_step}. The other "
            f"worker answered that one, in {moved.stages['total']:.0f} ms, "
            f"and the {len(later)} after it."
        )
    console.print(
        "The weights of model=tiny are made up, not trained: the arms only tremble around their "
        "resting pose, and the cube was "
        + ("handed over by pure chance." if transferred else "not handed over.")
    )


def run(steps: int, with_kill: bool, output: Path, console: Console) -> None:
    """The whole demo. ProcessError, PolicyError or ValueError when something in it failed."""
    with Processes(output / "logs") as processes:
        console.print("starting a broker and two workers (env=aloha_sim model=tiny)")
        port, workers = start_servers(processes)
        # Imported only now: it takes a second or two, in which the workers load.
        from scripts.demo.plots import Event, save_episode
        from scripts.demo.simulated_robot import SimulatedRobot

        with closing(SimulatedRobot()) as robot:
            for worker in workers:
                worker.wait_ready()
            half_way = steps // ACTIONS_PER_CHUNK // 2 * ACTIONS_PER_CHUNK
            kill = Kill(workers, half_way) if with_kill else None
            with ZmqPolicyClient("127.0.0.1", port) as client:
                episode = drive(robot, client, steps, output / "demo.mp4", kill)
        victim = kill.victim if kill else None
        struck = Event(half_way, f"{victim.name} killed") if victim else None
        title = "simulated ALOHA, two workers with model=tiny (untrained weights)"
        save_episode(output / "demo.png", episode, CONTROL_PERIOD_S, title, struck)
        report(console, episode, kill, robot.transferred_cube)
    console.print(f"{output / 'demo.mp4'}   what the robot saw")
    console.print(f"{output / 'demo.png'}   actions and latencies over time")
    console.print(f"{output / 'logs'}/      what broker and workers logged")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; SystemExit with code 2 when it is wrong."""
    parser = Flags("python -m scripts.demo", __doc__)
    parser.add_argument(
        "--steps", type=between(1, MOST_STEPS), default=300, help="control steps of 20 ms (300)"
    )
    parser.add_argument("--no-kill", action="store_true", help="let both workers live")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs"), help="folder for what it writes (outputs)"
    )
    return parser.read(arguments)


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 for a failure that was explained; 130 after Ctrl-C."""
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    console = Console(highlight=False)
    try:
        run(options.steps, not options.no_kill, options.output, console)
    except KeyboardInterrupt:
        console.print("stopped")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except (ProcessError, PolicyError, OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
