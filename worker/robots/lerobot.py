"""Serving a robot with a policy that LeRobot saved: conventions, statistics and cameras."""

from collections.abc import Mapping, Sequence

from worker.checkpoints.lerobot import LeRobotPolicy
from worker.config import EnvConfig
from worker.errors import SettingsError
from worker.robots import find_robot
from worker.robots.norm_stats import NormStats, lerobot_scale
from worker.robots.observations import Image, key_name
from worker.robots.robot import Cameras, RobotSpec


def check_robot(env: EnvConfig, policy: LeRobotPolicy) -> None:
    """Make sure that `policy` was trained with such a robot, in the convention that `env` says.

    Raises:
        SettingsError: it was not trained so.
    """
    robot = find_robot(env.robot)
    for what, ours, theirs in (
        ("state", robot.state_dim, policy.state_dim),
        ("action", robot.action_dim, policy.action_dim),
    ):
        if ours != theirs:
            raise SettingsError(
                f"env.robot={env.robot} has {ours} numbers in its {what}, and the checkpoint was"
                f" trained with {theirs}: env= is another robot's"
            )
    where = f"{policy.files[0]} does not say so"
    if env.adapt_to_pi != policy.adapts_to_pi:
        raise SettingsError(
            f"env.adapt_to_pi={str(env.adapt_to_pi).lower()}: {where} (adapt_to_pi_aloha), and"
            " LeRobot trains with the data set's own joints and grippers;"
            f" env.adapt_to_pi={str(policy.adapts_to_pi).lower()} serves it as it was trained"
        )
    if any(env.delta_mask or ()) != policy.has_delta_actions:
        raise SettingsError(
            f"env.delta_mask={env.delta_mask}: {where} (use_delta_joint_actions_aloha), and LeRobot"
            " trains with the data set's own actions; env.delta_mask=null serves it as it was"
            " trained"
        )


def lerobot_stats(env: EnvConfig, policy: LeRobotPolicy) -> NormStats:
    """The scales of the robot's states and actions.

    Raises:
        CheckpointError: the statistics cannot be used.
    """
    robot, where = find_robot(env.robot), policy.files[0].parent
    return NormStats(
        lerobot_scale(f"{where}: observation.state", policy.state, robot.state_dim),
        lerobot_scale(f"{where}: action", policy.actions, robot.action_dim),
    )


def lerobot_cameras(
    robot: RobotSpec, policy: LeRobotPolicy, chosen: Mapping[str, str] | None
) -> Cameras:
    """The cameras of a LeRobot policy, which have the data set's names.

    A camera's image is the one that `chosen` (`env.images`) names; else the one of the same name,
    whether that is the robot's own or openpi's.

    Raises:
        SettingsError: it is not clear which image a camera is, or `chosen` names one that is not
            there.
    """
    images = {key_name(image.path): image for image in robot.images}
    said = dict(chosen or {})
    cameras: Cameras = {}
    for camera in policy.cameras:
        theirs = policy.renamed.get(camera, camera)
        wanted = said.pop(camera, None) or (said.pop(theirs, None) if theirs != camera else None)
        found = _named(images, [wanted] if wanted is not None else [theirs, camera])
        if found is None or found in cameras.values():
            raise SettingsError(_advice(policy.cameras, images, theirs))
        cameras[camera] = found
    if said:
        raise SettingsError(
            f"env.images names {', '.join(said)}, but this checkpoint's cameras are"
            f" {', '.join(policy.cameras)}"
        )
    return cameras


def _named(images: Mapping[str, Image], names: Sequence[str]) -> Image | None:
    """The first image with one of `names`: as its key, the key's end, or the model's name."""
    for name in names:
        for key, image in images.items():
            if name in (key, key.rpartition("/")[2]) or (name == image.camera):
                return image
    return None


def _advice(cameras: Sequence[str], images: Mapping[str, Image], missing: str) -> str:
    pairs = ", ".join(f"{camera}: {key}" for camera, key in zip(cameras, images, strict=False))
    return (
        f"the checkpoint's cameras are {', '.join(cameras)}, the robot's images"
        f" {', '.join(images)}, and it is not clear which of them is {missing}: say it with"
        f" env.images, such as env.images='{{{pairs}}}'"
    )
