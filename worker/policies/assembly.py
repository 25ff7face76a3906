"""What a checkpoint says about its robot's inputs: statistics, cameras and the prompt's form."""

from worker.checkpoints.files import Checkpoint
from worker.config import Architecture, EnvConfig, ModelConfig
from worker.errors import CheckpointError, SettingsError
from worker.robots import find_robot
from worker.robots.lerobot import check_robot, lerobot_cameras, lerobot_stats
from worker.robots.norm_stats import NormStats, read_norm_stats
from worker.robots.robot import Cameras
from worker.robots.tokenizers import PI0, PI0_FAST, PI05, PromptForm, lerobot_form


def scales_and_cameras(
    env: EnvConfig, model: ModelConfig, files: Checkpoint
) -> tuple[NormStats, Cameras | None]:
    """How states and actions are scaled, and which image is which camera; None: as openpi has them.

    Raises:
        CheckpointError: the statistics are missing, damaged or another robot's.
        SettingsError: the settings contradict the checkpoint.
    """
    robot = find_robot(env.robot)
    if files.lerobot is not None:
        check_robot(env, files.lerobot)
        cameras = lerobot_cameras(robot, files.lerobot, env.images)
        return lerobot_stats(env, files.lerobot), cameras
    if env.images is not None:
        raise SettingsError(
            "env.images is for LeRobot's checkpoints: an openpi model's cameras are named by"
            " env.robot"
        )
    if files.norm_stats is None:
        raise CheckpointError("the checkpoint has no statistics")
    stats = read_norm_stats(
        files.norm_stats, model.normalization, robot.state_dim, robot.action_dim
    )
    return stats, None


def prompt_form(model: ModelConfig, files: Checkpoint) -> PromptForm:
    """How prompts looked when the checkpoint was trained."""
    if files.lerobot is not None:
        return lerobot_form(files.lerobot.architecture, files.lerobot.padded_state_dim)
    if model.architecture is Architecture.pi0_fast:
        return PI0_FAST
    return PI05 if model.discrete_state_input else PI0
