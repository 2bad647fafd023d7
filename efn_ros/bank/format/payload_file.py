# SPDX-License-Identifier: MIT
"""Random access to parts of a payload, each checked against its own CRC-32, so that no damaged byte is recalled."""

from __future__ import annotations

import itertools
import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from efn_ros.bank.format.codec import METADATA, decode_jpeg, metadata_crc, sketch_crc, tensor_crc
from efn_ros.bank.format.steps import Steps
from efn_ros.features.sketches import inverse_norm
from efn_ros.types import Mode, Quantised

DTYPES = {"F32": "<f4", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "u1", "I8": "i1"}  # by safetensors' names
DATA_START = ""  # key of the header as it is held here: where the tensors begin

Index = tuple[dict, np.ndarray]  # entries of the header, and the checksums of the sketches


class PayloadFile:
    """An open payload whose parts are read on demand.

    It stays open, so that a rollout that is removed while an episode recalls it stays readable until that episode has
    ended. Every method raises ValueError, naming the tensor, if a part is not what was written, and OSError.
    """

    def __init__(self, path: Path, index: Index | None = None) -> None:
        """Open a payload; with the `index` of the same file its header need not be read."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._header, self._sketch_crc = index or (None, None)
        self._jpegs: dict[str, list[tuple[int, int, int]]] = {}  # see `_find_jpegs`

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def steps(self) -> Steps:
        """Read what retrieval compares and returns of all decisions."""
        key, latent_key = self._tensor("key.q"), self._tensor("latent_key.q")
        names = {"latent": "latent_mean"} | {name: name for name in ("base", "executed", "proprio", "steps")}
        return Steps(
            key=key,
            key_norm=inverse_norm(key),
            latent_key=latent_key,
            latent_norm=inverse_norm(latent_key),
            recallable=self._tensor("recallable").astype(bool),
            **{name: self._tensor(stored) for name, stored in names.items()},
        )

    def followed(self) -> tuple[list[str], np.ndarray]:
        """Read the rollouts behind the n decisions that executed a correction by memory without exploration.

        Returns:
            The rollout behind each, and the confidence of its recall, (n,).
        """
        metadata = self._metadata()
        explored, source = (np.array(json.loads(metadata[n]))[self._tensor(n)] for n in ("explored", "source"))
        rows = (self._tensor("modes") == Mode.CORRECTED) & (explored == "") & (source != "")
        return source[rows].tolist(), self._tensor("confidence")[rows]

    def keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the key of all decisions, int8 (N, d), and whether they are recallable, bool (N,)."""
        return self._tensor("key.q"), self._tensor("recallable").astype(bool)

    def check(self) -> None:
        """Read and check everything."""
        self._metadata()
        for name in self._entries()[METADATA]["crc"].keys() - {METADATA}:
            self._tensor(name)
        self.sketches(range(len(self._tensor("steps"))))

    def index(self) -> Index:
        """Return what is needed to read sketches without reading the header again."""
        names, crc, header = ("sketch.q", "sketch.scale", DATA_START), self._sketch_checksums(), self._entries()
        if not all(name in header for name in names):
            raise ValueError("its header does not describe its sketches")
        return {name: header[name] for name in names} | {METADATA: {"crc": {}}}, crc

    def sketches(self, rows: Sequence[int]) -> list[Quantised]:
        """Read the token sketches of some decisions, each q int8 (T, d) and scale float32 (T,)."""
        crc, sketches = self._sketch_checksums(), []
        for row in rows:
            q, scale = self._tensor("sketch.q", row), self._tensor("sketch.scale", row)
            if sketch_crc(q, scale) != crc[row]:
                raise ValueError(f"row {row} of tensor 'sketch' is not what was written")
            sketches.append(Quantised(q, scale))
        return sketches

    def image(self, row: int, camera: str) -> np.ndarray:
        """Read the image of a camera at a decision, uint8 (height, width, 3) RGB, decoded from JPEG.

        The format has one checksum for all images of a camera. They are read together the first time, and one by one
        from then on.

        Raises:
            KeyError: The rollout has no such camera.
        """
        if camera not in self._jpegs:
            self._jpegs[camera] = self._find_jpegs(camera)
        start, size, crc = self._jpegs[camera][row]
        blob = os.pread(self._descriptor, size, start)
        if zlib.crc32(blob) != crc:
            raise ValueError(f"row {row} of tensor 'images.{camera}' is not what was written")
        return decode_jpeg(np.frombuffer(blob, np.uint8))

    def _find_jpegs(self, camera: str) -> list[tuple[int, int, int]]:
        """Return for each image of a camera its position in the file, its size in bytes and its CRC-32."""
        if camera not in json.loads(self._metadata()["cameras"]):
            raise KeyError(camera)
        header = self._entries()
        blobs, offsets = self._tensor(f"images.{camera}"), self._tensor(f"offsets.{camera}").tolist()
        first = header[DATA_START] + header[f"images.{camera}"]["data_offsets"][0]
        return [(first + a, b - a, zlib.crc32(blobs[a:b].data)) for a, b in itertools.pairwise(offsets)]

    def _sketch_checksums(self) -> np.ndarray:
        if self._sketch_crc is None:
            self._sketch_crc = self._tensor("sketch.crc")
        return self._sketch_crc

    def _tensor(self, name: str, row: int | None = None) -> np.ndarray:
        """Read a whole tensor and check it, or read one row, which the caller checks."""
        header = self._entries()
        try:
            entry, (start, end) = header[name], header[name]["data_offsets"]
            shape, dtype = entry["shape"], np.dtype(DTYPES[entry["dtype"]])
            crc = header[METADATA]["crc"].get(name)
            if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
                raise ValueError(f"{entry} holds other than whole numbers")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"its header does not describe tensor {name!r}") from error
        if row is not None:
            size = dtype.itemsize * math.prod(shape[1:])
            start, end, shape = start + row * size, start + (row + 1) * size, shape[1:]
        content = os.pread(self._descriptor, max(end - start, 0), header[DATA_START] + start)
        if len(content) != dtype.itemsize * math.prod(shape):
            raise ValueError(f"tensor {name!r} is not what was written")
        tensor = np.frombuffer(content, dtype).reshape(shape)
        if row is None and tensor_crc(name, tensor) != crc:
            raise ValueError(f"tensor {name!r} is not what was written")
        return tensor

    def _metadata(self) -> dict[str, str]:
        """Read the metadata of the rollout, and check them; this reads the whole header, which an index lacks."""
        self._header = self._read_header()
        metadata = {name: value for name, value in self._header[METADATA].items() if name not in ("crc", "format")}
        if self._header[METADATA]["crc"].get(METADATA) != metadata_crc(metadata):
            raise ValueError("its metadata are not what was written")
        return metadata

    def _entries(self) -> dict:
        """Return the header, or the entries of it that an index holds."""
        if self._header is None:
            self._header = self._read_header()
        return self._header

    def _read_header(self) -> dict:
        """Read the JSON header of a safetensors file, with `crc` decoded, and DATA_START added."""
        size = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        if size > os.fstat(self._descriptor).st_size:
            raise ValueError("its header is not what was written")
        try:
            header = json.loads(os.pread(self._descriptor, size, 8))
            header[METADATA]["crc"] = dict(json.loads(header[METADATA]["crc"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError("its header is not what was written") from error
        return header | {DATA_START: 8 + size}
