"""One rollout as one safetensors file: what is in it, and how to read it.

A file is read whole, against the checksum in the catalogue, or in parts: every tensor has a CRC-32 of its own, and the
sketches one for each decision, so that recall reads only what it compares and still never takes a damaged byte for a
memory.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import safetensors
import safetensors.numpy

from efn_ros.bank.keys import mean_latent
from efn_ros.bank.sketches import quantise
from efn_ros.types import Correction, Mode, Quantised, Rollout

FORMAT_VERSION = 3
DTYPES = {"F32": "<f4", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "u1", "I8": "i1"}  # as safetensors names them
METADATA, DATA = "__metadata__", ""  # in the header: as safetensors names it; where the tensors begin
Index = tuple[dict, np.ndarray]
ABOUT = ("rollout", "robot", "task", "instruction", "seed", "outcome", "length", "start_ns", "policy")
WHOLE = ("seed", "outcome", "length", "start_ns")  # of ABOUT: numbers
MOTION_EPSILON = 1e-3  # in the units of the action and of proprioception


def is_blank(
    executed: np.ndarray, proprio: np.ndarray, proprio_next: np.ndarray, mode: Mode, epsilon: float = MOTION_EPSILON
) -> bool:
    """Whether nothing moved in a decision; such a step is stored but never recalled (4.2: "every non-blank step").

    It is blank when it was commanded to hold (its mode is HOLD or STOPPED, or every entry of `executed` (H, A) is
    within `epsilon` of zero) and no entry of proprioception (P,) changed by more than `epsilon`. The last step of a
    rollout has nothing after it: given its own proprioception as `proprio_next`, it is judged by its command alone.
    """
    held = mode in (Mode.HOLD, Mode.STOPPED) or bool(np.all(np.abs(executed) <= epsilon))
    return held and bool(np.all(np.abs(proprio_next - proprio) <= epsilon))


def successors(steps: np.ndarray) -> np.ndarray:
    """Row of the decision after each one, int64 (N,), given their indices (N,).

    A row whose successor was not stored (the last, and one before a gap) is its own.
    """
    rows = np.arange(len(steps))
    rows[:-1] += np.diff(steps) == 1
    return rows


def before(arrays: StepArrays | Steps) -> tuple[np.ndarray, np.ndarray]:
    """What was executed in the decision before each one, (N, H, A), and proprioception before that, (N, P).

    Zero and its own proprioception, as of a robot that stood still, for a row whose predecessor was not stored.
    """
    rows = np.arange(len(arrays.steps))
    known = np.diff(arrays.steps, prepend=arrays.steps[:1]) == 1
    rows[known] -= 1
    return arrays.executed[rows] * known[:, None, None], arrays.proprio[rows]


@dataclass(frozen=True)
class StepArrays:
    """All decisions of one rollout but their sketches and images; N rows each, float32 unless said otherwise.

    key: q (N, d), scale (N,). base, executed, residual: (N, H, A). latent: (N, L, dz). proprio: (N, P). stamps_ns,
    steps: int64 (N,). modes: uint8 (N,). confidence: (N,). recallable: bool (N,).
    proposed: (N, H, A), the residual that memory proposed, zero where `proposes`, bool (N,), says that it proposed
    nothing. cut: bool (N,), the limits left less of it than was asked for. explored: str (N,), the mode of exploration
    that probed, empty for none. source, source_step: str and int32 (N,), the rollout and the step behind the
    correction, empty and -1 for none.
    """

    key: Quantised
    base: np.ndarray
    executed: np.ndarray
    residual: np.ndarray
    latent: np.ndarray
    proprio: np.ndarray
    stamps_ns: np.ndarray
    steps: np.ndarray
    modes: np.ndarray
    confidence: np.ndarray
    recallable: np.ndarray
    proposed: np.ndarray
    proposes: np.ndarray
    cut: np.ndarray
    explored: np.ndarray
    source: np.ndarray
    source_step: np.ndarray


@dataclass(frozen=True)
class Steps:
    """What recall compares and returns of one rollout; N rows each, float32 unless said otherwise.

    key, latent_key: int8 (N, d) and (N, dz); key_norm, latent_norm: (N,), one over their norms (0 for a zero row), so
    that norm * q is the unit vector of (32) and (37). latent: (N, dz), mean of the latent tokens. base, executed: (N,
    H, A). proprio: (N, P). steps: int64 (N,). recallable: bool (N,).
    """

    key: np.ndarray
    key_norm: np.ndarray
    latent_key: np.ndarray
    latent_norm: np.ndarray
    latent: np.ndarray
    base: np.ndarray
    executed: np.ndarray
    proprio: np.ndarray
    steps: np.ndarray
    recallable: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in vars(self).values())


def sizes_of(rollout: Rollout) -> dict[str, list[int]]:
    """The sizes that all rollouts of a bank share, by name; of the first decision."""
    step = rollout.steps[0].policy_step
    return {
        "base": list(np.shape(step.base)),
        "key": list(np.shape(step.key.q)),
        "sketch": list(np.shape(step.sketch.q)),
        "latent": list(np.shape(step.latent)),
        "proprio": list(np.shape(step.proprio)),
        "instruction_embedding": list(np.shape(step.instruction_embedding)),
    }


def sizes_in(content: bytes) -> dict[str, list[int]]:
    """Of a payload, what `sizes_of` says of a rollout."""
    tensors, metadata = unpack(content)
    names = {"base": "base", "key": "key.q", "sketch": "sketch.q", "latent": "latent", "proprio": "proprio"}
    embedding = np.frombuffer(base64.b64decode(metadata["instruction_embedding"]), "<f4")
    shapes = {name: list(tensors[tensor].shape[1:]) for name, tensor in names.items()}
    return shapes | {"instruction_embedding": list(embedding.shape)}


def check(rollout: Rollout, sizes: dict[str, list[int]]) -> None:
    """Raises ValueError, naming field and value, unless the rollout is complete, finite and of these sizes."""

    def refuse(field: str, value: object, remedy: str) -> None:
        raise ValueError(f"rollout {rollout.episode_id!r}: {field} is {value}; {remedy}")

    for name in ("episode_id", "robot", "task", "instruction", "policy"):
        try:
            getattr(rollout, name).encode()
        except UnicodeEncodeError:
            refuse(name, ascii(getattr(rollout, name)), "it must be text that UTF-8 can write")
    if not rollout.instruction.strip():
        refuse("instruction", repr(rollout.instruction), "a rollout is recalled by its instruction, give it one")
    if rollout.length < 1:
        refuse("length", rollout.length, "it must be at least one control step")
    cameras = sorted(rollout.steps[0].observation.images)
    previous = -1
    for row, item in enumerate(rollout.steps):
        observation, policy_step, correction = item.observation, item.policy_step, item.correction
        where = f"steps[{row}]."
        for name, part in (("observation", observation), ("policy_step", policy_step), ("correction", correction)):
            if part.context.episode_id != rollout.episode_id:
                refuse(f"{where}{name}.context.episode_id", repr(part.context.episode_id), "it must be the rollout's")
            if part.context.step != policy_step.context.step:
                refuse(f"{where}{name}.context.step", part.context.step, f"the others' is {policy_step.context.step}")
        if policy_step.context.step <= previous:
            refuse(f"{where}context.step", policy_step.context.step, f"it must be above {previous}, the one before")
        previous = policy_step.context.step
        for name, array, size in (
            ("base", policy_step.base, "base"),
            ("correction.corrected", correction.corrected, "base"),
            ("correction.residual", correction.residual, "base"),
            ("correction.proposed", _proposed(correction), "base"),
            ("key.q", policy_step.key.q, "key"),
            ("sketch.q", policy_step.sketch.q, "sketch"),
            ("latent", policy_step.latent, "latent"),
            ("proprio", policy_step.proprio, "proprio"),
            ("instruction_embedding", policy_step.instruction_embedding, "instruction_embedding"),
        ):
            if list(np.shape(array)) != sizes[size]:
                refuse(f"the shape of {where}{name}", np.shape(array), f"the bank holds {tuple(sizes[size])}")
        for name, quantised in (("key", policy_step.key), ("sketch", policy_step.sketch)):
            if quantised.q.dtype != np.int8:
                refuse(f"the dtype of {where}{name}.q", quantised.q.dtype, "it must be int8")
            if np.shape(quantised.scale) != quantised.q.shape[:-1]:
                refuse(f"the shape of {where}{name}.scale", np.shape(quantised.scale), "it must be one for each row")
        for name, array in (
            ("base", policy_step.base),
            ("correction.corrected", correction.corrected),
            ("correction.residual", correction.residual),
            ("correction.proposed", _proposed(correction)),
            ("key.scale", policy_step.key.scale),
            ("sketch.scale", policy_step.sketch.scale),
            ("latent", policy_step.latent),
            ("proprio", policy_step.proprio),
            ("instruction_embedding", policy_step.instruction_embedding),
            ("correction.confidence", correction.confidence),
        ):
            array = np.asarray(array)
            finite = np.isfinite(array)
            if not finite.all():
                index = tuple(int(i) for i in np.argwhere(~finite)[0])
                refuse(f"{where}{name}{list(index) if index else ''}", array[index], "it must be finite")
        if sorted(observation.images) != cameras:
            refuse(f"{where}observation.images", sorted(observation.images), f"the first step has {cameras}")
        for camera, image in observation.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                shown = f"{image.dtype} {image.shape}"
                refuse(f"{where}observation.images[{camera!r}]", shown, "it must be uint8 (height, width, 3)")


def encode(rollout: Rollout, image_quality: int, projection: str) -> bytes:
    """A checked rollout as the bytes of its payload. projection: identity of the one behind its keys and sketches."""
    steps = [item.policy_step for item in rollout.steps]
    corrections = [item.correction for item in rollout.steps]

    def stack(parts: list, dtype: type = np.float32) -> np.ndarray:
        return np.ascontiguousarray(np.stack([np.asarray(part) for part in parts]), dtype)

    tensors = {
        "key.q": stack([s.key.q for s in steps], np.int8),
        "key.scale": stack([s.key.scale for s in steps]),
        "sketch.q": stack([s.sketch.q for s in steps], np.int8),
        "sketch.scale": stack([s.sketch.scale for s in steps]),
        "base": stack([s.base for s in steps]),
        "executed": stack([c.corrected for c in corrections]),
        "residual": stack([c.residual for c in corrections]),
        "latent": stack([s.latent for s in steps]),
        "proprio": stack([s.proprio for s in steps]),
        "stamps_ns": stack([s.context.stamp_ns for s in steps], np.int64),
        "steps": stack([s.context.step for s in steps], np.int64),
        "modes": stack([int(c.mode) for c in corrections], np.uint8),
        "confidence": stack([c.confidence for c in corrections]),
        "proposed": stack([_proposed(c) for c in corrections]),
        "proposes": stack([c.proposed is not None for c in corrections], np.uint8),
        "cut": stack([c.cut for c in corrections], np.uint8),
        "source_step": stack([c.rollout_step for c in corrections], np.int32),
    }
    names = {"explored": [c.exploration for c in corrections], "source": [c.rollout_id for c in corrections]}
    for name, values in names.items():  # each name once, in the metadata
        names[name], codes = np.unique(values, return_inverse=True)
        tensors[name] = codes.astype(np.int32)
    after = successors(tensors["steps"])
    recallable = np.array(
        [
            not is_blank(
                tensors["executed"][i], tensors["proprio"][i], tensors["proprio"][after[i]], corrections[i].mode
            )
            for i in range(len(steps))
        ]
    )
    tensors["recallable"] = recallable.astype(np.uint8)
    cameras = sorted(rollout.steps[0].observation.images)
    for camera in cameras:
        blobs = [_jpeg(item.observation.images[camera], image_quality) for item in rollout.steps]
        tensors[f"images.{camera}"] = np.concatenate(blobs)
        tensors[f"offsets.{camera}"] = np.cumsum([0] + [len(blob) for blob in blobs]).astype(np.int64)
    metadata = {
        "projection": projection,
        "cameras": json.dumps(cameras),
        **{name: json.dumps(values.tolist()) for name, values in names.items()},
    }
    about = {"rollout": rollout.episode_id, **{name: getattr(rollout, name) for name in ABOUT if name != "rollout"}}
    return pack(tensors, metadata | told(about, rollout.steps[0].policy_step.instruction_embedding))


def told(about: Mapping[str, object], instruction_embedding: np.ndarray) -> dict[str, str]:
    """What the metadata of a payload say of the rollout as a whole, given all of ABOUT."""
    embedding = np.ascontiguousarray(instruction_embedding, "<f4").tobytes()
    said = {name: str(int(about[name])) if name in WHOLE else str(about[name]) for name in ABOUT}
    return said | {"instruction_embedding": base64.b64encode(embedding).decode()}


def row_of(content: bytes) -> dict[str, str | int | bytes]:
    """What the catalogue says of the rollout in a payload, but for the file and the revision: columns of `SEALED`."""
    tensors, metadata = unpack(content)
    names = np.array(json.loads(metadata["explored"]))[tensors["explored"]]
    return {
        "id": metadata["rollout"],
        "text": metadata["instruction"],
        "embedding": base64.b64decode(metadata["instruction_embedding"]),
        **{name: metadata[name] for name in ("robot", "task", "policy", "seed")},
        **{name: int(metadata[name]) for name in ("outcome", "length", "start_ns")},
        "decisions": len(tensors["steps"]),
        "recallable": int(tensors["recallable"].sum()),
        "explored": json.dumps(Counter(name for name in names.tolist() if name)),
    }


def pack(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The bytes of a payload of this format: the tensors, what recall compares of their latent tokens, and a CRC-32 of
    each tensor, which for a sketch is one for each decision, and of the metadata."""
    latent = tensors["latent"]
    key = quantise(mean_latent(latent))
    tensors = tensors | {
        "latent_key.q": key.q,
        "latent_key.scale": key.scale,
        "latent_mean": latent.sum(axis=1) / np.float32(max(latent.shape[1], 1)),
        "sketch.crc": np.array(
            [_sketch_crc(q, scale) for q, scale in zip(tensors["sketch.q"], tensors["sketch.scale"], strict=True)],
            np.uint32,
        ),
    }
    crc = {name: _crc(name, t) for name, t in tensors.items() if name not in ("sketch.q", "sketch.scale")}
    crc[METADATA] = _metadata_crc(metadata)
    metadata = metadata | {"format": str(FORMAT_VERSION), "crc": json.dumps(crc, sort_keys=True)}
    return _in_order(safetensors.numpy.save(tensors, metadata))


def _in_order(content: bytes) -> bytes:
    """The same file with its header in order, so that the same rollout always gives the same bytes."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def checksum(content: bytes) -> str:
    """BLAKE2b of 32 bytes, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def name_of(checksum: str) -> str:
    """The file's name, for its content: a retry after a failure never replaces a file that a commit may have named."""
    return f"{checksum[:32]}.safetensors"


def decode(payload: bytes) -> StepArrays:
    """The decisions in a payload, without sketches and images."""
    tensors = safetensors.numpy.load(payload)
    arrays = {name: tensors[name] for name in StepArrays.__dataclass_fields__ if name != "key"}
    metadata = unpack(payload)[1]
    for name in ("explored", "source"):
        arrays[name] = np.array(json.loads(metadata[name]))[arrays[name]]
    for name in ("recallable", "proposes", "cut"):
        arrays[name] = arrays[name].astype(bool)
    return StepArrays(key=Quantised(tensors["key.q"], tensors["key.scale"]), **arrays)


def jpegs(payload: bytes, camera: str) -> list[bytes]:
    """What a camera saw at each decision, as it is kept. Raises KeyError for a camera that the rollout has not."""
    tensors = safetensors.numpy.load(payload)
    offsets, blobs = tensors[f"offsets.{camera}"], tensors[f"images.{camera}"]
    return [blobs[start:end].tobytes() for start, end in zip(offsets[:-1], offsets[1:], strict=True)]


def decode_image(payload: bytes, row: int, camera: str) -> np.ndarray:
    """Image of one row, uint8 (height, width, 3) RGB. Raises KeyError for a camera that the rollout has not."""
    tensors = safetensors.numpy.load(payload)
    offsets = tensors[f"offsets.{camera}"]
    return _pixels(tensors[f"images.{camera}"][offsets[row] : offsets[row + 1]])


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
            key_norm=_over_norm(key),
            latent_key=latent_key,
            latent_norm=_over_norm(latent_key),
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


def unpack(payload: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a payload of any format."""
    size = int.from_bytes(payload[:8], "little")
    return safetensors.numpy.load(payload), json.loads(payload[8 : 8 + size])[METADATA]


def _crc(name: str, tensor: np.ndarray) -> int:
    """CRC-32 of "name dtype shape", such as "base <f4 (50, 4, 7)", and of the tensor's bytes."""
    said = f"{name} {tensor.dtype.str} {tensor.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(tensor), zlib.crc32(said))


def _metadata_crc(metadata: dict[str, str]) -> int:
    """CRC-32 of the metadata but for `crc` and `format`, as JSON with sorted keys."""
    return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())


def _sketch_crc(q: np.ndarray, scale: np.ndarray) -> int:
    """Of one decision."""
    return zlib.crc32(np.ascontiguousarray(scale), _crc("sketch", q))


def _over_norm(q: np.ndarray) -> np.ndarray:
    """One over the norm of each row of int8, 0 for a row of zeros; float32 (N,)."""
    squares = np.einsum("nd,nd->n", q, q, dtype=np.int64)
    return np.where(squares > 0, 1 / np.sqrt(np.maximum(squares, 1)), 0).astype(np.float32)


def _proposed(correction: Correction) -> np.ndarray:
    """(H, A), zero where nothing was proposed."""
    return np.zeros_like(correction.residual) if correction.proposed is None else correction.proposed


def _pixels(jpeg: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 3) RGB."""
    return cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    encoded, blob = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ValueError(f"an image of shape {image.shape} cannot be encoded as JPEG")
    return blob.reshape(-1)
