"""ALOHA in simulation: `MUJOCO_GL=egl python docs/examples/aloha_sim.py [HOST [PORT [STEPS]]]`.

The worker is `python -m worker env=aloha_sim checkpoint=DIR`; the simulator is gym-aloha, of the
extra `sim`.
"""

import sys

import gym_aloha  # noqa: F401 - which gives gymnasium its environments
import gymnasium
import numpy as np

from client import ActionChunkBroker, ZmqPolicyClient
from client.image_tools import resize_with_pad


def main() -> None:
    """Run one episode."""
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 400
    env = gymnasium.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")
    with ZmqPolicyClient(host, port, robot="aloha-sim", traffic="evaluation") as client:
        policy = ActionChunkBroker(client, 10)
        policy.reset()
        seen, _ = env.reset(seed=0)
        best = 0.0
        for _ in range(steps):
            image = resize_with_pad(seen["pixels"]["top"], 224, 224)
            observation = {
                "state": seen["agent_pos"].astype(np.float32),
                "images": {"cam_high": np.ascontiguousarray(np.moveaxis(image, -1, 0))},
            }
            action = policy.infer(observation)["actions"]
            seen, reward, is_over, _, _ = env.step(action)
            best = max(best, float(reward))
            if is_over:
                break
    print(f"best reward {best}, last action {action.shape}")


if __name__ == "__main__":
    main()
