"""The robots that this worker can serve, by their name in `env.robot`."""

from worker.config import Robot
from worker.robots.aloha import ALOHA
from worker.robots.droid import DROID
from worker.robots.libero import LIBERO
from worker.robots.robot import RobotSpec

ROBOTS: dict[Robot, RobotSpec] = {
    Robot.aloha: ALOHA,
    Robot.droid: DROID,
    Robot.libero: LIBERO,
}

__all__ = ["ROBOTS", "RobotSpec"]
