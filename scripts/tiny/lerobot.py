"""The tiny model's demonstrations as a LeRobot dataset, both tasks in one.

The frames of an episode are those that the training sees: a few, and more where care is needed.
`step` is the control step (20 ms each) at which one was taken, `action` what the expert does there,
and `chunk` what it does from there on, 50 actions row after row. The frames are not evenly spaced,
so the format's own times say nothing. Values are in the robot's convention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from scripts.recording.lerobot_dataset import DatasetWriter
from scripts.recording.lerobot_info import Feature
from scripts.tiny.episodes import Demonstration
from scripts.tiny.expert import STEPS
from scripts.tiny.scene import POLICY_PIXELS, TASKS

FPS = 2  # about as many frames as an episode has in a second
HORIZON = 50
CAMERA = "observation.images.top"
ROBOT_TYPE = "aloha"
_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
JOINTS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in _JOINTS)


def write_lerobot(
    files: Sequence[tuple[str, Path]], folder: Path, advance: Callable[[], None]
) -> int:
    """Write those demonstrations that succeeded; returns how many that were.

    Args:
        files: task and file of each, as `scripts.tiny.collect` made them.
        folder: of the dataset. A dataset that is there is replaced.
        advance: called after each file.

    Raises:
        Taken: something is in the folder's place that is no dataset.
        ValueError: none has succeeded.
        OSError: it cannot be written.
    """
    features = {
        "observation.state": Feature(len(JOINTS), names=JOINTS),
        "action": Feature(len(JOINTS), names=JOINTS),
        "chunk": Feature(HORIZON * len(JOINTS)),
        "step": Feature(1, "int64"),
    }
    cameras = {CAMERA: (POLICY_PIXELS, POLICY_PIXELS)}
    with DatasetWriter(
        folder, FPS, cameras, features, robot_type=ROBOT_TYPE, force=True
    ) as dataset:
        for task, path in files:
            shown = Demonstration.load(path)
            for step, image, state in zip(shown.steps, shown.images, shown.states, strict=True):
                rows = np.minimum(step + np.arange(HORIZON), STEPS - 1)
                chunk = shown.plan[rows]
                values = {
                    "observation.state": state,
                    "action": chunk[0],
                    "chunk": chunk.reshape(-1),
                    "step": [step],
                }
                dataset.add_frame({CAMERA: image}, values, TASKS[task].prompt)
            dataset.end_episode()
            advance()
    return dataset.episodes
