"""Banks to and from LeRobot's dataset format, version 3.0, without LeRobot: Parquet tables and JSON.

One frame for each decision. `observation.images.<camera>` (the bank's JPEG, byte for byte), `observation.state`,
`action` (the first of the chunk that was executed), `next.done`, `next.success`; beside them `chunk.executed` and
`chunk.base`, (H, A), of which LeRobot's policies need not know. An episode's task is what the rollout was told.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from efn_ros.bank.format import codec
from efn_ros.bank.format.steps import StepArrays
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.types import Outcome

VERSION = "v3.0"
CHUNK, FILE_MEGABYTES = 1000, 100  # files in a directory; size beyond which a file is followed by another
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
IMAGES, STATE, ACTION, EXECUTED, BASE = (
    "observation.images.", "observation.state", "action", "chunk.executed", "chunk.base"
)  # fmt: skip
INDICES = ("frame_index", "episode_index", "index", "task_index")
MOMENTS = ("mean", "std", "min", "max")
NANOSECONDS = 10**9


@dataclass(frozen=True)
class Frames:
    """An episode of a dataset: T frames.

    images: camera -> T images, uint8 (height, width, 3) RGB. state: float32 (T, P). action: (T, A). executed, base:
    (T, H, A) where the dataset has them, else None. success: of the episode, None where it does not say.
    """

    index: int
    task: str
    fps: float
    images: dict[str, list[np.ndarray]]
    state: np.ndarray
    action: np.ndarray
    executed: np.ndarray | None = None
    base: np.ndarray | None = None
    success: bool | None = None


def export(
    rollouts: Sequence[StoredRollout], directory: Path, *, fps: float = 0.0, progress=iter, robot: str = ""
) -> int:
    """Write a dataset of rollouts of one bank, in their order; returns the number of frames.

    fps: frames a second; 0 takes the median of what the rollouts' stamps say. Raises ValueError for no rollout, for
    rollouts of other cameras than the first, for stamps that tell no rate, and for a directory that is there already;
    BankCorruptionError for a payload that is not what was written.
    """
    if not rollouts:
        raise ValueError("there is no rollout to export")
    if directory.exists():
        raise ValueError(f"{directory} is there already; name a new directory")
    rate = fps or _rate(rollouts)
    tasks = {task: i for i, task in enumerate(dict.fromkeys(r.record.instruction for r in rollouts))}
    cameras, total, episodes, sums = rollouts[0].cameras(), 0, [], _Statistics()
    first = rollouts[0].arrays
    features = _features(first, cameras, rollouts[0])
    chunk_index = file_index = 0
    writer, written = None, 0
    for index, rollout in enumerate(progress(rollouts)):
        if rollout.cameras() != cameras:
            raise ValueError(
                f"rollout {rollout.record.id!r} has cameras {rollout.cameras()}, the first {cameras}; export them apart"
            )
        table = _table(rollout, cameras, index, total, tasks[rollout.record.instruction], rate)
        sums.add(rollout, cameras)
        if writer is None or written > FILE_MEGABYTES * 2**20:
            if writer is not None:
                writer.close()
                chunk_index, file_index = chunk_index + (file_index + 1) // CHUNK, (file_index + 1) % CHUNK
            path = directory / DATA.format(chunk_index=chunk_index, file_index=file_index)
            path.parent.mkdir(parents=True, exist_ok=True)
            writer, written = pq.ParquetWriter(path, table.schema), 0
        writer.write_table(table)
        written += table.nbytes
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
    writer.close()
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
    (directory / STATS).write_text(json.dumps(sums.result(), indent=1) + "\n")
    (directory / INFO).write_text(json.dumps(info, indent=4) + "\n")
    return total


def read(directory: Path) -> Iterator[Frames]:
    """The episodes of a dataset. Raises ValueError, naming it, for what is no dataset of this version, lacks states or
    actions, keeps its images as video or its frames elsewhere, and for a file that leads out of the directory."""
    if not (directory / INFO).is_file():
        raise ValueError(f"there is no LeRobot dataset in {directory}: it holds no {INFO}")
    paths = sorted(directory.glob("data/*/*.parquet"))
    for path in (INFO, TASKS, *(path.relative_to(directory) for path in paths)):
        inside(directory, path)
    info = json.loads((directory / INFO).read_text())
    if info.get("codebase_version") != VERSION:
        raise ValueError(f"{directory} is of version {info.get('codebase_version')}, not {VERSION}; convert it first")
    if info.get("data_path") != DATA:
        raise ValueError(f"{directory} keeps its frames in {info.get('data_path')!r}; only {DATA} is read")
    features = info["features"]
    for name in (STATE, ACTION):
        if name not in features:
            raise ValueError(f"{directory} has no feature {name!r}; there are {', '.join(features)}")
    videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
    if videos:
        raise ValueError(f"{directory} keeps {', '.join(videos)} as video; only images are read, convert it first")
    cameras = {name: name.removeprefix(IMAGES) for name, feature in features.items() if feature["dtype"] == "image"}
    tasks = {row["task_index"]: row["task"] for row in _read_tasks(directory / TASKS)}
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


def inside(directory: Path, name: str | Path) -> Path:
    """A file of a directory that came from elsewhere. Raises ValueError, naming it, where its name or a symbolic link
    leads out of there."""
    path = directory / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory)):
        raise ValueError(f"{path} leads out of {directory}, where nothing is read; copy in what it leads to")
    return path


def _rate(rollouts: Sequence[StoredRollout]) -> float:
    gaps = np.concatenate([np.diff(r.arrays.stamps_ns) / np.maximum(np.diff(r.arrays.steps), 1) for r in rollouts])
    if not len(gaps) or np.median(gaps) <= 0:
        raise ValueError("the stamps of these rollouts tell no rate; name one with --fps")
    rate = NANOSECONDS / float(np.median(gaps))
    return float(round(rate)) if abs(rate - round(rate)) < 0.01 * rate else round(rate, 3)


def _features(arrays: StepArrays, cameras: Iterable[str], rollout: StoredRollout) -> dict:
    content = rollout.content()
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
    """(N, n) or (N, m, n) as fixed-size lists, in lists where it has two axes."""
    values = np.ascontiguousarray(values, np.float32)
    array = pa.array(values.reshape(-1))
    array = pa.FixedSizeListArray.from_arrays(array, values.shape[-1])
    if values.ndim == 3:  # as `datasets` stores its Array2D
        offsets = np.arange(0, len(values) * values.shape[1] + 1, values.shape[1], dtype=np.int32)
        inner = pa.ListArray.from_arrays(
            np.arange(0, values.size + 1, values.shape[-1], dtype=np.int32), pa.array(values.reshape(-1))
        )
        return pa.ListArray.from_arrays(offsets, inner)
    return array


def _array(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), np.float32)


def _image(cell: dict) -> np.ndarray:
    with Image.open(io.BytesIO(cell["bytes"])) as image:
        return np.asarray(image.convert("RGB"))


def _tasks_table(tasks: dict[str, int]) -> pa.Table:
    """As pandas writes a frame whose index is the task: LeRobot looks a task up by its row."""
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), "task": pa.array(list(tasks))})
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for name, (kind, dtype) in kinds.items()
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _read_tasks(path: Path) -> list[dict]:
    table = pq.read_table(path)
    named = "task" if "task" in table.column_names else "__index_level_0__"
    pairs = zip(table["task_index"].to_pylist(), table[named].to_pylist(), strict=True)
    return [{"task_index": index, "task": task} for index, task in pairs]


class _Statistics:
    """Mean, deviation, least and most of every feature that is normalised."""

    def __init__(self) -> None:
        self._numbers: dict[str, list[np.ndarray]] = {}
        self._pixels: dict[str, list[np.ndarray]] = {}

    def add(self, rollout: StoredRollout, cameras: Iterable[str]) -> None:
        arrays, content = rollout.arrays, rollout.content()
        self._numbers.setdefault(STATE, []).append(arrays.proprio)
        self._numbers.setdefault(ACTION, []).append(arrays.executed[:, 0])
        for camera in cameras:  # of the first, which looks like the others
            pixels = codec.decode_image(content, 0, camera).reshape(-1, 3) / np.float32(255)
            self._pixels.setdefault(IMAGES + camera, []).append(pixels)

    def result(self) -> dict:
        found = {name: _moments(np.concatenate(parts)) for name, parts in self._numbers.items()}
        for name, parts in self._pixels.items():
            moments = _moments(np.concatenate(parts))
            shaped = {key: np.reshape(value, (3, 1, 1)).tolist() for key, value in moments.items() if key != "count"}
            found[name] = shaped | {"count": moments["count"]}
        return found


def _moments(values: np.ndarray) -> dict[str, list]:
    values = values.astype(np.float64)
    return {name: getattr(values, name)(axis=0).tolist() for name in MOMENTS} | {"count": [len(values)]}
