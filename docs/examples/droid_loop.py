"""A DROID robot's control loop: `python docs/examples/droid_loop.py [HOST [PORT [STEPS]]]`.

The worker is `python -m worker env=droid checkpoint=DIR`. Put your robot's own calls where this
asks `Arm`, which stands in for one.
"""

import sys
import time

import numpy as np

from client import ActionChunkBroker, ZmqPolicyClient
from client.image_tools import resize_with_pad

CONTROL_HZ = 15
OPEN_LOOP_STEPS = 8  # of each chunk; then the robot looks again


class Arm:
    """Stands in for a Franka arm with two cameras."""

    joints = np.zeros(7, np.float32)  # rad
    gripper = np.zeros(1, np.float32)  # 0 open, 1 closed

    def camera(self) -> np.ndarray:
        """One frame, (180, 320, 3) uint8."""
        return np.zeros((180, 320, 3), np.uint8)

    def command(self, velocities: np.ndarray, gripper: float) -> None:
        """Joint velocities (7,) for one control period, and the gripper."""
        self.joints = self.joints + velocities / CONTROL_HZ


def main() -> None:
    """Run one episode."""
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 600
    arm = Arm()
    with ZmqPolicyClient(host, port, robot="droid-1") as client:
        policy = ActionChunkBroker(client, OPEN_LOOP_STEPS)
        policy.reset()
        for _ in range(steps):
            began = time.monotonic()
            observation = {
                "observation/exterior_image_1_left": resize_with_pad(arm.camera(), 224, 224),
                "observation/wrist_image_left": resize_with_pad(arm.camera(), 224, 224),
                "observation/joint_position": arm.joints,
                "observation/gripper_position": arm.gripper,
                "prompt": "pick up the fork",
            }
            action = policy.infer(observation)["actions"]
            # As DROID's policies were trained: the gripper is either open or closed.
            arm.command(np.clip(action[:7], -1, 1), float(action[7] > 0.5))
            time.sleep(max(0.0, began + 1 / CONTROL_HZ - time.monotonic()))
    print(f"{steps} steps, last action {action.shape}")


if __name__ == "__main__":
    main()
