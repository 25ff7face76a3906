"""The Parquet files of a LeRobot dataset: frames, episodes and tasks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.recording.lerobot_statistics import Statistics

_EPISODES_A_GROUP = 100  # rows of the episodes' table that are held before they are written
_FIRST_FILE = "chunk-000/file-000.parquet"


class _Table:
    """One Parquet file that grows."""

    def __init__(self, path: Path, schema: Any) -> None:
        import pyarrow.parquet as parquet

        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._schema = path, schema
        self._writer = parquet.ParquetWriter(path, schema, compression="snappy")

    def bytes(self) -> int:
        """What the file has so far."""
        return self._path.stat().st_size

    def close(self) -> None:
        """Write the file's end.

        Raises:
            OSError: it cannot be written.
        """
        self._writer.close()

    def abandon(self) -> None:
        """Let the file be, whole or not."""
        with contextlib.suppress(OSError):
            self._writer.close()


class FrameTable(_Table):
    """Frames, a row group for each episode."""

    def __init__(
        self, path: Path, sizes: Mapping[str, int], rows: Mapping[str, NDArray[Any]]
    ) -> None:
        """Begin a file for rows like these; `sizes` are of the columns that hold vectors."""
        import pyarrow

        kinds = {}
        for key, values in rows.items():
            kind, size = pyarrow.from_numpy_dtype(values.dtype), sizes.get(key, 1)
            kinds[key] = kind if size == 1 else pyarrow.list_(kind, size)
        super().__init__(path, pyarrow.schema(list(kinds.items())))

    def add(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write an episode: a column is (frames,) or (frames, size).

        Raises:
            OSError: it cannot be written.
        """
        import pyarrow

        columns = []
        for kind in self._schema:
            flat = pyarrow.array(np.ascontiguousarray(rows[kind.name]).reshape(-1))
            if pyarrow.types.is_fixed_size_list(kind.type):
                flat = pyarrow.FixedSizeListArray.from_arrays(flat, type=kind.type)
            columns.append(flat)
        self._writer.write_table(pyarrow.Table.from_arrays(columns, schema=self._schema))


class EpisodeTable(_Table):
    """Episodes, one a row. It stays one file: 10,000 episodes of an ALOHA robot take 100 MB."""

    def __init__(self, folder: Path, statistics: Mapping[str, Statistics]) -> None:
        """Begin a table of episodes with statistics like these."""
        import pyarrow

        self._rows: list[dict[str, Any]] = []
        whole, real = pyarrow.int64(), pyarrow.float64()
        kinds: dict[str, Any] = {
            "episode_index": whole,
            "tasks": pyarrow.list_(pyarrow.string()),
            "length": whole,
            "data/chunk_index": whole,
            "data/file_index": whole,
            "dataset_from_index": whole,
            "dataset_to_index": whole,
        }
        for key, each in statistics.items():
            if np.ndim(each["mean"]) > 1:  # pictures
                kinds |= {f"videos/{key}/{name}_index": whole for name in ("chunk", "file")}
                kinds |= {f"videos/{key}/{name}_timestamp": real for name in ("from", "to")}
        for key, each in statistics.items():
            for name, value in each.items():
                kind = whole if name == "count" else real
                for _ in range(np.ndim(value)):
                    kind = pyarrow.list_(kind)
                kinds[f"stats/{key}/{name}"] = kind
        kinds |= {"meta/episodes/chunk_index": whole, "meta/episodes/file_index": whole}
        super().__init__(folder / _FIRST_FILE, pyarrow.schema(list(kinds.items())))

    def add(self, row: Mapping[str, Any], statistics: Mapping[str, Statistics]) -> None:
        """Add an episode.

        Raises:
            OSError: it cannot be written.
        """
        told = {
            f"stats/{key}/{name}": value
            for key, each in statistics.items()
            for name, value in each.items()
        }
        place = {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        self._rows.append({**row, **told, **place})
        if len(self._rows) >= _EPISODES_A_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left and the file's end.

        Raises:
            OSError: it cannot be written.
        """
        self._flush()
        super().close()

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Write the prompts, by their numbers.

    LeRobot reads this file with pandas and expects the prompt as the table's index, which is told
    in the file's metadata.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    told = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            _pandas_column("task_index", "int64", "int64"),
            _pandas_column("task", "unicode", "object"),
        ],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.0.0",
    }
    table = pyarrow.table(
        {
            "task_index": pyarrow.array(range(len(tasks)), pyarrow.int64()),
            "task": pyarrow.array(tasks, pyarrow.string()),
        }
    )
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(told)}), path)


def _pandas_column(name: str, pandas_type: str, numpy_type: str) -> dict[str, Any]:
    return {
        "name": name,
        "field_name": name,
        "pandas_type": pandas_type,
        "numpy_type": numpy_type,
        "metadata": None,
    }
