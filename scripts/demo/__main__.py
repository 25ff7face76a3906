"""`python -m scripts.demo`: a simulated ALOHA robot, a broker, and two workers, one of which dies.

Starts everything on free loopback ports and drives the robot for two episodes. Half-way through the
first, one worker is killed with SIGKILL; half-way through the second, the broker is, and another is
started in its place. The arms go on meanwhile: the next chunk of actions is asked for in the
background, and made to go on from the one before (real-time chunking). Of each episode, a video
shows what the robot saw, and a picture the motion with its seams, latencies and reward. However
the demo ends, it stops all that it started.

The robot's time goes as fast as this machine can simulate and render it, and never faster than
the clock: a control step is 20 ms to the robot, and took 60 to 120 ms on two busy cores. Broker,
workers and requests run in real time, and delays are counted in the robot's steps as they happen.
So an answer that takes 200 ms comes 2 or 3 control steps after its observation here, and 10 where
the simulation keeps up with the clock.
"""

from __future__ import annotations

from conf.flags import INTERRUPTED, Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v2 as imageio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from client import AsyncActionChunkBroker, ZmqPolicyClient
from client.chunk_statistics import ChunkStatistics
from client.errors import PolicyError
from conf.signals import terminable
from scripts.demo.episode import (
    CONTROL_PERIOD_S,
    STEPS_PER_FRAME,
    Episode,
    Pace,
    WatchedPolicy,
    run_episode,
)
from scripts.demo.servers import Kill, Restart, Servers
from scripts.local.processes import ProcessError, Processes
from scripts.local.timing import by_stage, largest, latency_table, percentile

if TYPE_CHECKING:
    from scripts.demo.simulated_robot import SimulatedRobot

ACTIONS_PER_CHUNK = 10
"""Of the 50 that the policy gives: what is left of them outlasts a broker's restart."""
MODE = "identity"  # with this model the smoothest form: see benchmarks.closed_loop
MOST_STEPS = 100_000
SEEDS = (1001, 1005)
"""Where the cube lies in each episode: starts at which the model succeeds when undisturbed."""
CAPTION = (
    "held: control steps in which no action was left. seam jump: how far the command moves where a "
    "new chunk begins; inside: from step to step in between; means, over all joints together"
)
STATISTICS = {"p50": percentile(50), "p95": percentile(95), "max": largest}


def drive(
    robot: SimulatedRobot,
    client: ZmqPolicyClient,
    actions: int,
    video: Path,
    blow: Kill | Restart | None,
) -> tuple[Episode, ChunkStatistics]:
    """Run an episode with a progress bar, filming to `video`."""
    episode, pace = Episode(), Pace(CONTROL_PERIOD_S)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    fps = round(1 / (STEPS_PER_FRAME * CONTROL_PERIOD_S))
    writer: Any = imageio.get_writer(video, fps=fps, quality=7)
    policy = WatchedPolicy(client, episode, blow.before_request if blow else lambda step: None)
    with (
        writer,
        AsyncActionChunkBroker(
            policy,
            1 / CONTROL_PERIOD_S,
            merge="rtc",
            mode=MODE,
            action_horizon=ACTIONS_PER_CHUNK,
            clock=lambda: episode.seconds,
        ) as broker,
        Progress(*columns, TextColumn("actions"), TimeElapsedColumn()) as progress,
    ):
        bar = progress.add_task("all servers", total=actions)

        def before_step(step: int) -> None:
            pace.wait()
            if step % STEPS_PER_FRAME == 0:
                writer.append_data(robot.picture())
            if blow:
                blow.before_step()
            if blow and blow.victim:
                progress.update(bar, description=f"{blow.victim.name} was killed")
            progress.update(bar, completed=step + 1 - len(episode.held))

        run_episode(robot, broker, actions, before_step, episode)
        statistics = broker.statistics()
    episode.rewards = robot.rewards
    return episode, statistics


def report(
    console: Console, episode: Episode, done: ChunkStatistics, blow: Kill | Restart | None
) -> None:
    """The table of latencies, and who was killed."""
    measured = by_stage([request.stages for request in episode.requests])
    console.print(
        f"{episode.steps} control steps, {len(episode.requests)} requests answered, "
        f"{done.failures} failed; the arms were held in {len(episode.held)} steps"
    )
    console.print(latency_table(measured, STATISTICS))
    if blow and blow.victim and blow.struck_at is not None:
        told = [r.stages["total"] for r in episode.requests if r.step >= blow.struck_at]
        console.print(blow.tell(told))


def closing_table() -> Table:
    """A line for every episode."""
    table = Table(box=None, caption=CAPTION, caption_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("reward", "handed over", "let go", "held", "seams", "seam jump", "inside"):
        table.add_column(column, justify="right")
    return table


def run(actions: int, with_kill: bool, output: Path, console: Console) -> None:
    """The whole demo.

    Raises:
        ProcessError, PolicyError, ValueError: something in it failed.
    """
    achieved = closing_table()
    with Processes(output / "logs") as processes:
        console.print("starting a broker and two workers (env=aloha_sim model=tiny)")
        servers = Servers(processes)
        # Imported only now: it takes a second or two, in which the workers load.
        from scripts.demo.plots import Event, save_episode
        from scripts.demo.simulated_robot import SimulatedRobot

        blows: dict[str, Kill | Restart | None] = {"demo": None}
        if with_kill:
            blows = {
                "demo": Kill(servers.workers, actions // 2),
                "demo-restart": Restart(servers, actions // 2),
            }
        with (
            closing(SimulatedRobot()) as robot,
            ZmqPolicyClient("127.0.0.1", servers.port) as client,
        ):
            for worker in servers.workers:
                worker.wait_ready()
            for (name, blow), seed in zip(blows.items(), SEEDS, strict=False):
                robot.reset(seed)
                episode, done = drive(robot, client, actions, output / f"{name}.mp4", blow)
                struck, told = None, "undisturbed"
                if blow and blow.victim and blow.struck_at is not None:
                    told = f"{blow.victim.name} killed"
                    struck = Event(blow.struck_at, told)
                title = "simulated ALOHA, two workers with model=tiny"
                save_episode(output / f"{name}.png", episode, title, struck)
                report(console, episode, done, blow)
                achieved.add_row(
                    told,
                    f"{robot.best_reward} of 4",
                    *("yes" if it else "no" for it in (robot.transferred_cube, robot.let_go)),
                    str(done.held),
                    str(done.seams),
                    f"{done.mean_seam_jump:.4f}",
                    f"{done.mean_inside_change:.4f}",
                )
    for name in blows:
        console.print(f"{output / name}.mp4   what the robot saw")
        console.print(f"{output / name}.png   the motion with its seams, latencies and reward")
    console.print(f"{output / 'logs'}/      what broker and workers logged")
    console.print(achieved)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with code 2 if it is wrong."""
    parser = Flags("python -m scripts.demo", __doc__)
    parser.add_argument(
        "--steps",
        type=between(1, MOST_STEPS),
        default=300,
        help="control steps with an action of their own, of each episode (300)",
    )
    parser.add_argument(
        "--no-kill", action="store_true", help="one episode, in which all servers live"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs"), help="folder for what it writes (outputs)"
    )
    return parser.read(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 for a failure that was explained; 130 after Ctrl-C."""
    options, console = parse(arguments), Console(highlight=False)
    with terminable():
        return _demonstrate(options, console)


def _demonstrate(options: argparse.Namespace, console: Console) -> int:
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
