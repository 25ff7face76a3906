"""Writing safetensors files for tests, whole or damaged."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.golden import FOLDER, TOKENIZER
from worker.checkpoints.safetensors_file import WeightsFile
from worker.checkpoints.weights import Weights as AnyWeights

Weights = dict[str, npt.NDArray[np.float32]]


def copy_golden(checkpoint: str, folder: Path) -> Path:
    """A golden checkpoint with its tokenizer in `folder`, to be damaged."""
    target = folder / checkpoint
    shutil.copytree(FOLDER / checkpoint, target, ignore=shutil.ignore_patterns("params", "*.npz"))
    shutil.copy(TOKENIZER, target / TOKENIZER.name)
    return target


def read_weights(path: Path) -> Weights:
    """All tensors of a float32 file."""
    with WeightsFile(path) as file:
        return {
            name: np.frombuffer(file.read(t.start, t.nbytes), "<f4").reshape(t.shape)
            for name, t in file.tensors.items()
        }


def whole_tensors(weights: AnyWeights) -> dict[str, npt.NDArray[Any]]:
    """All tensors of either form, each in one array, by their public names."""
    pieces: dict[str, list[npt.NDArray[Any]]] = {}
    for piece in weights.pieces():
        pieces.setdefault(piece.name, []).append(piece.values)
    return {name: np.concatenate(values) for name, values in pieces.items()}


def write_weights(path: Path, weights: Weights) -> None:
    """A safetensors file of float32 tensors."""
    header: dict[str, Any] = {}
    end = 0
    for name, array in weights.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [begin, end]}
    write_raw(path, json.dumps(header).encode(), b"".join(a.tobytes() for a in weights.values()))


def write_shards(folder: Path, weights: Weights, count: int) -> Path:
    """The tensors in `count` files, and the index that names them."""
    names = list(weights)
    places: dict[str, str] = {}
    for shard in range(count):
        file = f"model-{shard + 1:05}-of-{count:05}.safetensors"
        places |= dict.fromkeys(names[shard::count], file)
        write_weights(folder / file, {name: weights[name] for name in names[shard::count]})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def write_raw(path: Path, header: bytes, data: bytes) -> None:
    """A file with any header and data, sensible or not."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
