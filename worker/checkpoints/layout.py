"""The names of the files that hold a checkpoint's weights, in each form that is read."""

from pathlib import Path

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
WEIGHTS_FOLDER = "params"
"""JAX's form."""


def has_weights(folder: Path) -> bool:
    """Whether weights lie directly in `folder`, in any form that is read."""
    files = (folder / WEIGHTS_FILE, folder / WEIGHTS_INDEX)
    return any(path.is_file() for path in files) or (folder / WEIGHTS_FOLDER).is_dir()
