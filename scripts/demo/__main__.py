"""`python -m scripts.demo`: a simulated ALOHA robot, a broker, and two workers, one of which dies.

Starts everything on free loopback ports and drives the robot in chunks for two episodes. Half-way
through the first, one worker is killed with SIGKILL; half-way through the second, the broker is,
and another is started in its place. Of each, a video shows what the robot saw, and a picture
actions, latencies and reward. All that it started is stopped when it ends, however it ends.
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
from rich.table import Table

from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.demo.episode import CONTROL_PERIOD_S, Episode, run_episode
from scripts.local.processes import Process, ProcessError, Processes, free_ports
from scripts.local.timing import by_stage, largest, latency_table, percentile

if TYPE_CHECKING:
    from scripts.demo.simulated_robot import SimulatedRobot

ACTIONS_PER_CHUNK = 10  # of the 50 that the policy gives
MOST_STEPS = 100_000
SEEDS = (1001, 1005)
"""Where the cube lies in each episode: starts at which the model succeeds when undisturbed."""
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

    def tell(self, moved_ms: float, later: int) -> str:
        """What was done, and how the request at that step fared."""
        victim = self.victim
        if victim is None:
            return ""
        return (
            f"{victim.name} (process {victim.pid}) was killed with SIGKILL "
            f"{1e3 * KILL_AFTER_S:.0f} ms into the request of step {self.at_step}. The other "
            f"worker answered that one, in {moved_ms:.0f} ms, and the {later} after it."
        )


class Restart:
    """SIGKILL for the broker before the request at `at_step`, and a new one on the same ports."""

    def __init__(self, servers: Servers, at_step: int) -> None:
        self.at_step = at_step
        self.victim: Process | None = None
        self._servers = servers

    def before_request(self, step: int) -> None:
        """If this is the request that was chosen, replace the broker."""
        if step == self.at_step:
            self.victim = self._servers.broker
            self.victim.kill()
            self._servers.start_broker("broker 2")

    def tell(self, moved_ms: float, later: int) -> str:
        """What was done, and how the request at that step fared."""
        if self.victim is None:
            return ""
        return (
            f"The broker (process {self.victim.pid}) was killed with SIGKILL before the request of "
            f"step {self.at_step}, and another was started on the same ports. That request was "
            f"answered in {moved_ms:.0f} ms, and the {later} after it were answered too."
        )


class Servers:
    """A broker and two workers, none ready yet."""

    def __init__(self, processes: Processes) -> None:
        self.port, back = free_ports(2)
        self._processes, self._backend = processes, f"tcp://127.0.0.1:{back}"
        self.start_broker("broker")
        worker = ["env=aloha_sim", "model=tiny", f"broker={self._backend}"]
        # With more threads than free cores every barrier waits for the scheduler: 50 ms become
        # seconds.
        worker.append("runtime.threads=1")
        self.workers = [processes.start(f"worker {number}", "worker", *worker) for number in (1, 2)]
        self.broker.wait_ready()

    def start_broker(self, name: str) -> None:
        """Start one on the ports of the first."""
        frontend = f"frontend=tcp://127.0.0.1:{self.port}"
        self.broker = self._processes.start(name, "broker", frontend, f"backend={self._backend}")


def drive(
    robot: SimulatedRobot,
    client: ZmqPolicyClient,
    steps: int,
    video: Path,
    blow: Kill | Restart | None,
) -> Episode:
    """Run the episode with a progress bar, filming to `video`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    fps = round(1 / (STEPS_PER_FRAME * CONTROL_PERIOD_S))
    writer: Any = imageio.get_writer(video, fps=fps, quality=7)
    with Progress(*columns, TextColumn("control steps"), TimeElapsedColumn()) as progress, writer:
        bar = progress.add_task("all servers", total=steps)

        def before_step(step: int) -> None:
            if step % STEPS_PER_FRAME == 0:
                writer.append_data(robot.picture())
            if blow and blow.victim:
                progress.update(bar, description=f"{blow.victim.name} was killed")
            progress.update(bar, completed=step + 1)

        def before_request(step: int) -> None:
            if blow:
                blow.before_request(step)

        episode = run_episode(robot, client, steps, ACTIONS_PER_CHUNK, before_step, before_request)
    episode.rewards = robot.rewards
    return episode


def report(console: Console, episode: Episode, blow: Kill | Restart | None) -> None:
    """The table of latencies, and who was killed."""
    measured = by_stage([request.stages for request in episode.requests])
    steps, requests = len(episode.actions), len(episode.requests)
    console.print(f"{steps} control steps, {requests} requests, all answered")
    console.print(latency_table(measured, STATISTICS))
    if blow and blow.victim:
        moved, *later = [request for request in episode.requests if request.step >= blow.at_step]
        console.print(blow.tell(moved.stages["total"], len(later)))


def run(steps: int, with_kill: bool, output: Path, console: Console) -> None:
    """The whole demo. ProcessError, PolicyError or ValueError when something in it failed."""
    achieved = Table("episode", "best reward of 4", "handed over", "let go", box=None)
    with Processes(output / "logs") as processes:
        console.print("starting a broker and two workers (env=aloha_sim model=tiny)")
        servers = Servers(processes)
        # Imported only now: it takes a second or two, in which the workers load.
        from scripts.demo.plots import Event, save_episode
        from scripts.demo.simulated_robot import SimulatedRobot

        half_way = steps // ACTIONS_PER_CHUNK // 2 * ACTIONS_PER_CHUNK
        blows: dict[str, Kill | Restart | None] = {"demo": None}
        if with_kill:
            blows = {
                "demo": Kill(servers.workers, half_way),
                "demo-restart": Restart(servers, half_way),
            }
        with (
            closing(SimulatedRobot()) as robot,
            ZmqPolicyClient("127.0.0.1", servers.port) as client,
        ):
            for worker in servers.workers:
                worker.wait_ready()
            for (name, blow), seed in zip(blows.items(), SEEDS, strict=False):
                robot.reset(seed)
                episode = drive(robot, client, steps, output / f"{name}.mp4", blow)
                victim = blow.victim if blow else None
                struck = Event(half_way, f"{victim.name} killed") if victim else None
                title = "simulated ALOHA, two workers with model=tiny"
                save_episode(output / f"{name}.png", episode, CONTROL_PERIOD_S, title, struck)
                report(console, episode, blow)
                told = f"{victim.name} killed" if victim else "undisturbed"
                done = ["yes" if it else "no" for it in (robot.transferred_cube, robot.let_go)]
                achieved.add_row(told, str(robot.best_reward), *done)
    for name in blows:
        console.print(f"{output / name}.mp4   what the robot saw")
        console.print(f"{output / name}.png   actions, latencies and reward over time")
    console.print(f"{output / 'logs'}/      what broker and workers logged")
    console.print(achieved)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; SystemExit with code 2 when it is wrong."""
    parser = Flags("python -m scripts.demo", __doc__)
    parser.add_argument(
        "--steps",
        type=between(1, MOST_STEPS),
        default=300,
        help="control steps of 20 ms, of each episode (300)",
    )
    parser.add_argument(
        "--no-kill", action="store_true", help="one episode, in which all servers live"
    )
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
