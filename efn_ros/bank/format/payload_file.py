"""A payload read in parts, each against a CRC-32 of its own, so that a damaged byte is never recalled."""

from __future__ import annotations

import itertools
import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from efn_ros.bank.format.codec import METADATA, _crc, _metadata_crc, _pixels, _sketch_crc
from efn_ros.bank.format.steps import Steps
from efn_ros.features.sketches import inverse_norm
from efn_ros.types import Mode, Quantised

DTYPES = {"F32": "<f4", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "u1", "I8": "i1"}  # as safetensors names them


DATA = ""  # in the header as it is held here: where the tensors begin


Index = tuple[dict, np.ndarray]


class PayloadFile:
    """Parts of a payload, read when they are asked for. It stays open, so that a rollout that is forgotten while an
    episode recalls it stays readable until that episode has ended. Everything raises ValueError, naming the tensor, for
    what is not as it was written, and OSError."""

    def __init__(self, path: Path, index: Index | None = None) -> None:
        """index: of the same file, as `index` gave it before."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._header, self._sketch_crc = index or (None, None)
        self._jpegs: dict[str, list[tuple[int, int, int]]] = {}

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def steps(self) -> Steps:
        """All decisions."""
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
        """Of the n decisions that memory corrected and nothing probed: the rollout behind each, and the confidence of
        the recall, (n,)."""
        names, told = self._metadata(), {}
        for name in ("explored", "source"):
            told[name] = np.array(json.loads(names[name]))[self._tensor(name)]
        rows = (self._tensor("modes") == Mode.CORRECTED) & (told["explored"] == "") & (told["source"] != "")
        return told["source"][rows].tolist(), self._tensor("confidence")[rows]

    def keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Of all decisions the key, int8 (N, d), and whether they are recallable, bool (N,)."""
        return self._tensor("key.q"), self._tensor("recallable").astype(bool)

    def check(self) -> None:
        """Read all of it."""
        self._metadata()
        for name in self._header[METADATA]["crc"].keys() - {METADATA}:
            self._tensor(name)
        self.sketches(range(len(self._tensor("steps"))))

    def index(self) -> Index:
        """All that has to be known to read sketches."""
        if self._sketch_crc is None:
            self._sketch_crc = self._tensor("sketch.crc")
        kept = ("sketch.q", "sketch.scale", DATA)
        if not all(name in self._header for name in kept):
            raise ValueError("its header does not describe its sketches")
        return {name: self._header[name] for name in kept} | {METADATA: {"crc": {}}}, self._sketch_crc

    def sketches(self, rows: Sequence[int]) -> list[Quantised]:
        """Token sketches of some decisions, each q int8 (T, d) and scale float32 (T,)."""
        if self._sketch_crc is None:
            self._sketch_crc = self._tensor("sketch.crc")
        sketches = []
        for row in rows:
            q, scale = self._tensor("sketch.q", row), self._tensor("sketch.scale", row)
            if _sketch_crc(q, scale) != self._sketch_crc[row]:
                raise ValueError(f"row {row} of tensor 'sketch' is not what was written")
            sketches.append(Quantised(q, scale))
        return sketches

    def image(self, row: int, camera: str) -> np.ndarray:
        """What a camera saw at a decision, uint8 (height, width, 3) RGB, as JPEG has kept it.

        Only all that a camera saw has a checksum: that is read the first time, and each image by itself from then on.
        Raises KeyError for a camera that the rollout has not.
        """
        if camera not in self._jpegs:
            self._jpegs[camera] = self._find_jpegs(camera)
        start, size, crc = self._jpegs[camera][row]
        blob = os.pread(self._descriptor, size, start)
        if zlib.crc32(blob) != crc:
            raise ValueError(f"row {row} of tensor 'images.{camera}' is not what was written")
        return _pixels(np.frombuffer(blob, np.uint8))

    def _find_jpegs(self, camera: str) -> list[tuple[int, int, int]]:
        """Where in the file each image of a camera begins, its bytes and their CRC-32."""
        if camera not in json.loads(self._metadata()["cameras"]):
            raise KeyError(camera)
        header = self._header  # read anew: an index does not describe images
        blobs, offsets = self._tensor(f"images.{camera}"), self._tensor(f"offsets.{camera}").tolist()
        first = header[DATA] + header[f"images.{camera}"]["data_offsets"][0]
        return [(first + a, b - a, zlib.crc32(blobs[a:b])) for a, b in itertools.pairwise(offsets)]

    def _tensor(self, name: str, row: int | None = None) -> np.ndarray:
        """A whole tensor, checked, or one row of it, which the caller checks."""
        if self._header is None:
            self._header = self._read_header()
        header = self._header
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
        content = os.pread(self._descriptor, max(end - start, 0), header[DATA] + start)
        if len(content) != dtype.itemsize * math.prod(shape):
            raise ValueError(f"tensor {name!r} is not what was written")
        tensor = np.frombuffer(content, dtype).reshape(shape)
        if row is None and _crc(name, tensor) != crc:
            raise ValueError(f"tensor {name!r} is not what was written")
        return tensor

    def _metadata(self) -> dict[str, str]:
        """What the file says of the rollout, checked; the whole header is read for it."""
        self._header = self._read_header()
        metadata = {name: value for name, value in self._header[METADATA].items() if name not in ("crc", "format")}
        if self._header[METADATA]["crc"].get(METADATA) != _metadata_crc(metadata):
            raise ValueError("its metadata are not what was written")
        return metadata

    def _read_header(self) -> dict:
        """The JSON header of a safetensors file, its metadata with `crc` decoded, and under DATA where those begin."""
        size = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        if size > os.fstat(self._descriptor).st_size:
            raise ValueError("its header is not what was written")
        try:
            header = json.loads(os.pread(self._descriptor, size, 8))
            header[METADATA]["crc"] = dict(json.loads(header[METADATA]["crc"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError("its header is not what was written") from error
        return header | {DATA: 8 + size}
