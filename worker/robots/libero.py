"""LIBERO: the benchmark's simulated Franka arm, driven by its end effector, with two cameras."""

from worker.robots.observations import Image, Vector
from worker.robots.robot import RobotSpec

LIBERO = RobotSpec(
    vectors=(Vector(("observation/state",), 8),),
    images=(
        Image(("observation/image",), "base_0_rgb"),
        Image(("observation/wrist_image",), "left_wrist_0_rgb"),
    ),
    action_dim=7,
    fast_cameras={
        "base_0_rgb": "base_0_rgb",
        "left_wrist_0_rgb": "left_wrist_0_rgb",
        "right_wrist_0_rgb": None,
    },
)
