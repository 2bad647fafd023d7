# SPDX-License-Identifier: MIT
"""Conversion of banks to and from LeRobot's dataset format, version 3.0, without LeRobot: Parquet tables and JSON.

Each decision is one frame. It contains `observation.images.<camera>` (the bank's JPEG, byte for byte),
`observation.state`, `action` (the first of the executed chunk), `next.done` and `next.success`, and also
`chunk.executed` and `chunk.base`, (H, A), which LeRobot's policies ignore. The task of an episode is the instruction.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from efn_ros.bank.convert.frames import NANOSECONDS, Frames, path_inside
from efn_ros.bank.format import codec
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.types import Outcome

VERSION = "v3.0"
CHUNK, FILE_MEGABYTES = 1000, 100  # files in a directory; size beyond which the next file is begun
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
IMAGES, STATE, ACTION, EXECUTED, BASE = (
    "observation.images.", "observation.state", "action", "chunk.executed", "chunk.base"
)  # fmt: skip
INDICES = ("frame_index", "episode_index", "index", "task_index")
MOMENTS = ("mean", "std", "min", "max")


def export(
    rollouts: Sequence[StoredRollout],
    directory: Path,
    *,
    fps: float = 0.0,
    progress: Callable[[Sequence[StoredRollout]], Iterable[StoredRollout]] = iter,
    robot: str = "",
) -> int:
    """Write rollouts of one bank as a dataset.

    Args:
        rollouts: In the order of the episodes.
        directory: Of the new dataset.
        fps: Frames a second; 0 takes the median rate of the rollouts' stamps.
        progress: Wraps the rollouts.
        robot: Name of the robot; empty: that of the first rollout.

    Returns:
        The number of frames.

    Raises:
        ValueError: There is no rollout, they have different cameras, their stamps give no rate, or the directory
            exists.
        BankCorruptionError: A payload is not what was written.
    """
    if not rollouts:
        raise ValueError("there is no rollout to export")
    if directory.exists():
        raise ValueError(f"{directory} exists already; name a new directory")
    rate = fps or _rate(rollouts)
    tasks = {task: i for i, task in enumerate(dict.fromkeys(r.record.instruction for r in rollouts))}
    cameras, total, episodes, data = rollouts[0].cameras(), 0, [], _DataFiles(directory)
    features = _features(cameras, rollouts[0])
    for index, rollout in enumerate(progress(rollouts)):
        if rollout.cameras() != cameras:
            raise ValueError(
                f"rollout {rollout.record.id!r} has cameras {rollout.cameras()}, the first {cameras}; export them apart"
            )
        table = _table(rollout, cameras, index, total, tasks[rollout.record.instruction], rate)
        chunk_index, file_index = data.write(table)
        count = len(rollout.arrays.steps)
        episodes.append(
            {
                "episode_index": index,
                "tasks": [rollout.record.instruction],
                "length": count,
                "dataset_from_index": total,
                "dataset_to_index": total + count,
                "data/chunk_index": chunk_index,
                "data/file_index": file_index,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        total += count
    data.close()
    info = {
        "codebase_version": VERSION,
        "robot_type": robot or rollouts[0].record.robot,
        "total_episodes": len(rollouts),
        "total_frames": total,
        "total_tasks": len(tasks),
        "chunks_size": CHUNK,
        "data_files_size_in_mb": FILE_MEGABYTES,
        "video_files_size_in_mb": FILE_MEGABYTES,
        "fps": int(rate) if float(rate).is_integer() else rate,
        "splits": {"train": f"0:{len(rollouts)}"},
        "data_path": DATA,
        "video_path": None,
        "features": features,
    }
    (directory / EPISODES).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), directory / EPISODES)
    pq.write_table(_tasks_table(tasks), directory / TASKS)
    (directory / STATS).write_text(json.dumps(_statistics(rollouts, cameras), indent=1) + "\n")
    (directory / INFO).write_text(json.dumps(info, indent=4) + "\n")
    return total


def read(directory: Path) -> Iterator[Frames]:
    """Read the episodes of a dataset.

    Raises:
        ValueError: It is no dataset of this version, lacks states or actions, stores images as video or frames in other
            files, or a file leads out of the directory; the message names it.
    """
    if not (directory / INFO).is_file():
        raise ValueError(f"there is no LeRobot dataset in {directory}: it contains no {INFO}")
    paths = sorted(directory.glob("data/*/*.parquet"))
    for path in (INFO, TASKS, *(path.relative_to(directory) for path in paths)):
        path_inside(directory, path)
    info = json.loads((directory / INFO).read_text())
    if info.get("codebase_version") != VERSION:
        raise ValueError(f"{directory} has version {info.get('codebase_version')}, not {VERSION}; convert it first")
    if info.get("data_path") != DATA:
        raise ValueError(f"{directory} stores its frames in {info.get('data_path')!r}; only {DATA} is read")
    features = info["features"]
    for name in (STATE, ACTION):
        if name not in features:
            raise ValueError(f"{directory} has no feature {name!r}, only {', '.join(features)}")
    videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
    if videos:
        raise ValueError(f"{directory} stores {', '.join(videos)} as video; only images are read, convert it first")
    cameras = {name: name.removeprefix(IMAGES) for name, feature in features.items() if feature["dtype"] == "image"}
    tasks = _read_tasks(directory / TASKS)
    for path in paths:
        table = pq.read_table(path)
        indices = table["episode_index"].to_numpy()
        for index in dict.fromkeys(indices.tolist()):
            rows = table.filter(pa.array(indices == index))
            chunks = {name: _array(rows[name]) if name in features else None for name in (EXECUTED, BASE)}
            success = rows["next.success"].to_pylist() if "next.success" in features else None
            yield Frames(
                index=index,
                task=tasks[rows["task_index"][0].as_py()],
                fps=float(info["fps"]),
                images={camera: [_image(cell.as_py()) for cell in rows[name]] for name, camera in cameras.items()},
                state=_array(rows[STATE]),
                action=_array(rows[ACTION]),
                executed=chunks[EXECUTED],
                base=chunks[BASE],
                success=any(success) if success is not None else None,
            )


class _DataFiles:
    """Writes tables to a sequence of Parquet files of about FILE_MEGABYTES."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._index = directory, -1
        self._writer: pq.ParquetWriter | None = None
        self._written = 0

    def write(self, table: pa.Table) -> tuple[int, int]:
        """Append a table and return the indices of its directory and file."""
        if self._writer is None or self._written > FILE_MEGABYTES * 2**20:
            self.close()
            self._index += 1
            chunk_index, file_index = divmod(self._index, CHUNK)
            path = self._directory / DATA.format(chunk_index=chunk_index, file_index=file_index)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer, self._written = pq.ParquetWriter(path, table.schema), 0
        self._writer.write_table(table)
        self._written += table.nbytes
        return divmod(self._index, CHUNK)

    def close(self) -> None:
        """Complete the last file."""
        if self._writer is not None:
            self._writer.close()


def _rate(rollouts: Sequence[StoredRollout]) -> float:
    gaps = np.concatenate([np.diff(r.arrays.stamps_ns) / np.maximum(np.diff(r.arrays.steps), 1) for r in rollouts])
    if not len(gaps) or np.median(gaps) <= 0:
        raise ValueError("the stamps of these rollouts give no rate; name one with --fps")
    rate = NANOSECONDS / float(np.median(gaps))
    return float(round(rate)) if abs(rate - round(rate)) < 0.01 * rate else round(rate, 3)


def _features(cameras: Iterable[str], rollout: StoredRollout) -> dict:
    arrays, content = rollout.arrays, rollout.content()
    _, horizon, size = arrays.executed.shape
    features = {}
    for camera in cameras:
        shape = codec.decode_image(content, 0, camera).shape
        features[IMAGES + camera] = {"dtype": "image", "shape": list(shape), "names": ["height", "width", "channels"]}
    for name, shape in (
        (STATE, [arrays.proprio.shape[1]]), (ACTION, [size]), (EXECUTED, [horizon, size]), (BASE, [horizon, size])
    ):  # fmt: skip
        features[name] = {"dtype": "float32", "shape": shape, "names": None}
    for name in ("next.done", "next.success"):
        features[name] = {"dtype": "bool", "shape": [1], "names": None}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    return features | {name: {"dtype": "int64", "shape": [1], "names": None} for name in INDICES}


def _table(rollout: StoredRollout, cameras: Iterable[str], index: int, first: int, task: int, rate: float) -> pa.Table:
    arrays, content = rollout.arrays, rollout.content()
    count = len(arrays.steps)
    last = np.arange(count) == count - 1
    columns: dict[str, pa.Array] = {}
    for camera in cameras:
        cells = [{"bytes": blob, "path": None} for blob in codec.jpegs(content, camera)]
        columns[IMAGES + camera] = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns |= {STATE: _lists(arrays.proprio), ACTION: _lists(arrays.executed[:, 0])}
    columns |= {EXECUTED: _lists(arrays.executed), BASE: _lists(arrays.base)}
    columns["next.done"] = pa.array(last)
    columns["next.success"] = pa.array(last & (rollout.record.outcome == Outcome.SUCCESS))
    columns["timestamp"] = pa.array((np.arange(count) / rate).astype(np.float32))
    numbers = (np.arange(count), np.full(count, index), first + np.arange(count), np.full(count, task))
    columns |= {name: pa.array(values, pa.int64()) for name, values in zip(INDICES, numbers, strict=True)}
    return pa.table(columns)


def _lists(values: np.ndarray) -> pa.Array:
    """Return (N, n) as fixed-size lists, (N, m, n) as lists of lists, which is how `datasets` stores its Array2D."""
    values = np.ascontiguousarray(values, np.float32)
    flat, size = pa.array(values.reshape(-1)), values.shape[-1]
    if values.ndim < 3:
        return pa.FixedSizeListArray.from_arrays(flat, size)
    rows = pa.ListArray.from_arrays(np.arange(0, values.size + 1, size, dtype=np.int32), flat)
    offsets = np.arange(0, len(values) * values.shape[1] + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, rows)


def _array(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), np.float32)


def _image(cell: dict) -> np.ndarray:
    with Image.open(io.BytesIO(cell["bytes"])) as image:
        return np.asarray(image.convert("RGB"))


def _tasks_table(tasks: dict[str, int]) -> pa.Table:
    """Return the table as pandas writes a frame with the task as index, by which LeRobot finds a task."""
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), "task": pa.array(list(tasks))})
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for name, (kind, dtype) in kinds.items()
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _read_tasks(path: Path) -> dict[int, str]:
    table = pq.read_table(path)
    name = "task" if "task" in table.column_names else "__index_level_0__"
    return dict(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True))


def _statistics(rollouts: Sequence[StoredRollout], cameras: Iterable[str]) -> dict:
    """Return mean, standard deviation, minimum and maximum of every normalised feature.

    The first image of an episode represents the others.
    """
    states, actions = [r.arrays.proprio for r in rollouts], [r.arrays.executed[:, 0] for r in rollouts]
    found = {STATE: _moments(np.concatenate(states)), ACTION: _moments(np.concatenate(actions))}
    for camera in cameras:
        images = [codec.decode_image(r.content(), 0, camera).reshape(-1, 3) / np.float32(255) for r in rollouts]
        moments = _moments(np.concatenate(images))
        shaped = {name: np.reshape(moments[name], (3, 1, 1)).tolist() for name in MOMENTS}
        found[IMAGES + camera] = shaped | {"count": moments["count"]}
    return found


def _moments(values: np.ndarray) -> dict[str, list]:
    values = values.astype(np.float64)
    return {name: getattr(values, name)(axis=0).tolist() for name in MOMENTS} | {"count": [len(values)]}
