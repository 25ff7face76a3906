"""A LIBERO episode: `python docs/examples/libero_loop.py [HOST [PORT [STEPS]]]`.

The worker is `python -m worker env=libero checkpoint=DIR`. `Simulation` stands in for LIBERO's
`OffScreenRenderEnv`, whose observations have these keys.
"""

import math
import sys

import numpy as np

from client import ActionChunkBroker, ZmqPolicyClient
from client.image_tools import resize_with_pad

SETTLE_STEPS = 10  # objects fall into their places first
REPLAN_STEPS = 5  # of each chunk
REST = [0.0] * 6 + [-1.0]


class Simulation:
    """Stands in for the simulator."""

    def reset(self) -> dict:
        """The first observation."""
        return {
            "agentview_image": np.zeros((256, 256, 3), np.uint8),
            "robot0_eye_in_hand_image": np.zeros((256, 256, 3), np.uint8),
            "robot0_eef_pos": np.zeros(3),
            "robot0_eef_quat": np.array([0.0, 0.0, 0.0, 1.0]),
            "robot0_gripper_qpos": np.zeros(2),
        }

    def step(self, action: list) -> tuple:
        """Observation, reward, whether the task is done, and more."""
        assert len(action) == 7
        return self.reset(), 0.0, False, {}


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """A rotation (x, y, z, w) as its axis times its angle in radians, (3,)."""
    w = min(1.0, max(-1.0, float(quaternion[3])))
    sine = math.sqrt(1.0 - w * w)
    return np.zeros(3) if sine < 1e-8 else quaternion[:3] * 2.0 * math.acos(w) / sine


def observe(seen: dict, prompt: str) -> dict:
    """What `env=libero` takes. LIBERO's pictures are upside down, and so were the training's."""
    pictures = {
        "observation/image": seen["agentview_image"],
        "observation/wrist_image": seen["robot0_eye_in_hand_image"],
    }
    state = (
        seen["robot0_eef_pos"],
        axis_angle(seen["robot0_eef_quat"]),
        seen["robot0_gripper_qpos"],
    )
    turned = {
        key: resize_with_pad(np.ascontiguousarray(picture[::-1, ::-1]), 224, 224)
        for key, picture in pictures.items()
    }
    return {
        **turned,
        "observation/state": np.concatenate(state).astype(np.float32),
        "prompt": prompt,
    }


def main() -> None:
    """Run one episode."""
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 220
    simulation = Simulation()
    with ZmqPolicyClient(host, port, robot="libero") as client:
        policy = ActionChunkBroker(client, REPLAN_STEPS)
        policy.reset()
        seen, is_done = simulation.reset(), False
        for _ in range(SETTLE_STEPS):
            seen, _, is_done, _ = simulation.step(REST)
        for _ in range(steps):
            action = policy.infer(observe(seen, "put the bowl on the plate"))["actions"]
            seen, _, is_done, _ = simulation.step(action.tolist())
            if is_done:
                break
    print(f"done: {is_done}, last action {action.shape}")


if __name__ == "__main__":
    main()
