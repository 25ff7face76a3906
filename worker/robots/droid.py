"""DROID: a Franka arm of seven joints with a gripper, one camera beside it and one on its wrist."""

from worker.robots.observations import Image, Vector
from worker.robots.robot import RobotSpec

DROID = RobotSpec(
    vectors=(
        Vector(("observation/joint_position",), 7),
        Vector(("observation/gripper_position",), 1, scalar=True),
    ),
    images=(
        Image(("observation/exterior_image_1_left",), "base_0_rgb"),
        Image(("observation/wrist_image_left",), "left_wrist_0_rgb"),
    ),
    action_dim=8,
    fast_cameras={
        "base_0_rgb": "base_0_rgb",
        "base_1_rgb": None,
        "wrist_0_rgb": "left_wrist_0_rgb",
    },
)
