"""One rollout as the bytes of a safetensors file, and back."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping

import cv2
import numpy as np
import safetensors
import safetensors.numpy

from efn_ros.bank.format.steps import StepArrays, is_blank, successors
from efn_ros.bank.format.validation import _proposed
from efn_ros.features.keys import mean_latent
from efn_ros.features.sketches import quantise
from efn_ros.types import Quantised, Rollout

FORMAT_VERSION = 3


METADATA = "__metadata__"  # in the header, as safetensors names it


ABOUT = ("rollout", "robot", "task", "instruction", "seed", "outcome", "length", "start_ns", "policy")


WHOLE = ("seed", "outcome", "length", "start_ns")  # of ABOUT: numbers
STORED = {"clipped": "cut"}  # fields of `StepArrays` -> tensors of another name


def sizes_in(content: bytes) -> dict[str, list[int]]:
    """Of a payload, what `sizes_of` says of a rollout."""
    tensors, metadata = unpack(content)
    names = {"base": "base", "key": "key.q", "sketch": "sketch.q", "latent": "latent", "proprio": "proprio"}
    embedding = np.frombuffer(base64.b64decode(metadata["instruction_embedding"]), "<f4")
    shapes = {name: list(tensors[tensor].shape[1:]) for name, tensor in names.items()}
    return shapes | {"instruction_embedding": list(embedding.shape)}


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
        "cut": stack([c.clipped for c in corrections], np.uint8),
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
    arrays = {name: tensors[STORED.get(name, name)] for name in StepArrays.__dataclass_fields__ if name != "key"}
    metadata = unpack(payload)[1]
    for name in ("explored", "source"):
        arrays[name] = np.array(json.loads(metadata[name]))[arrays[name]]
    for name in ("recallable", "proposes", "clipped"):
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


def _pixels(jpeg: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 3) RGB."""
    return cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    encoded, blob = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ValueError(f"an image of shape {image.shape} cannot be encoded as JPEG")
    return blob.reshape(-1)
