# SPDX-License-Identifier: MIT
"""Conversion of one rollout to the bytes of a safetensors file, and back."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping

import cv2
import numpy as np
import safetensors.numpy

from efn_ros.bank.format.steps import StepArrays, is_blank, successors
from efn_ros.bank.format.validation import proposal_or_zero
from efn_ros.features.keys import mean_latent
from efn_ros.features.sketches import quantise
from efn_ros.types import Quantised, Rollout

FORMAT_VERSION = 3
METADATA = "__metadata__"  # safetensors' name of them in the header
ROLLOUT_FIELDS = ("rollout", "robot", "task", "instruction", "seed", "outcome", "length", "start_ns", "policy")
INTEGER_FIELDS = ("seed", "outcome", "length", "start_ns")
TENSOR_NAMES = {"clipped": "cut"}  # fields of `StepArrays` whose tensors have another name in the format


def encode(rollout: Rollout, image_quality: int, projection: str) -> bytes:
    """Encode a valid rollout as its payload.

    Args:
        rollout: As `check_rollout` accepts it.
        image_quality: Of JPEG, 1 to 100.
        projection: Identity of the projection behind its keys and sketches.
    """
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
        "proposed": stack([proposal_or_zero(c) for c in corrections]),
        "proposes": stack([c.proposed is not None for c in corrections], np.uint8),
        "cut": stack([c.clipped for c in corrections], np.uint8),
        "source_step": stack([c.rollout_step for c in corrections], np.int32),
    }
    metadata = {"projection": projection}
    names = {"explored": [c.exploration for c in corrections], "source": [c.rollout_id for c in corrections]}
    for name, values in names.items():  # each distinct text once, in the metadata
        distinct, indices = np.unique(values, return_inverse=True)
        metadata[name], tensors[name] = json.dumps(distinct.tolist()), indices.astype(np.int32)
    executed, proprio = tensors["executed"], tensors["proprio"]
    after = proprio[successors(tensors["steps"])]
    rows = zip(executed, proprio, after, corrections, strict=True)
    blank = [is_blank(chunk, before, next_, correction.mode) for chunk, before, next_, correction in rows]
    tensors["recallable"] = 1 - np.array(blank, np.uint8)
    cameras = sorted(rollout.steps[0].observation.images)
    for camera in cameras:
        blobs = [_encode_jpeg(item.observation.images[camera], image_quality) for item in rollout.steps]
        tensors[f"images.{camera}"] = np.concatenate(blobs)
        tensors[f"offsets.{camera}"] = np.cumsum([0] + [len(blob) for blob in blobs]).astype(np.int64)
    metadata["cameras"] = json.dumps(cameras)
    fields = {"rollout": rollout.episode_id} | {name: getattr(rollout, name) for name in ROLLOUT_FIELDS[1:]}
    return pack(tensors, metadata | rollout_metadata(fields, rollout.steps[0].policy_step.instruction_embedding))


def rollout_metadata(fields: Mapping[str, str | int], instruction_embedding: np.ndarray) -> dict[str, str]:
    """Return the metadata of a payload that describe the rollout as a whole.

    Args:
        fields: All of ROLLOUT_FIELDS.
        instruction_embedding: (E,).
    """
    embedding = np.ascontiguousarray(instruction_embedding, "<f4").tobytes()
    texts = {name: str(int(fields[name]) if name in INTEGER_FIELDS else fields[name]) for name in ROLLOUT_FIELDS}
    return texts | {"instruction_embedding": base64.b64encode(embedding).decode()}


def catalogue_row(content: bytes) -> dict[str, str | int | bytes]:
    """Return the row of the catalogue that describes a payload: CHECKED_COLUMNS without the revision."""
    tensors, metadata = unpack(content)
    names = np.array(json.loads(metadata["explored"]))[tensors["explored"]]
    digest = checksum(content)
    return {
        "id": metadata["rollout"],
        "text": metadata["instruction"],
        "embedding": base64.b64decode(metadata["instruction_embedding"]),
        **{name: metadata[name] for name in ("robot", "task", "policy", "seed")},
        **{name: int(metadata[name]) for name in ("outcome", "length", "start_ns")},
        "decisions": len(tensors["steps"]),
        "recallable": int(tensors["recallable"].sum()),
        "explored": json.dumps(Counter(name for name in names.tolist() if name)),
        "payload": file_name(digest),
        "payload_size": len(content),
        "payload_checksum": bytes.fromhex(digest),
    }


def payload_sizes(content: bytes) -> dict[str, list[int]]:
    """Return what `sizes_of` returns of the rollout in a payload."""
    tensors, metadata = unpack(content)
    names = {"base": "base", "key": "key.q", "sketch": "sketch.q", "latent": "latent", "proprio": "proprio"}
    embedding = np.frombuffer(base64.b64decode(metadata["instruction_embedding"]), "<f4")
    shapes = {name: list(tensors[tensor].shape[1:]) for name, tensor in names.items()}
    return shapes | {"instruction_embedding": list(embedding.shape)}


def pack(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """Return the payload of tensors and metadata.

    Added are the keys of the latent tokens, which retrieval compares, and checksums: a CRC-32 of the metadata, of each
    tensor, and of each decision's sketch.
    """
    latent = tensors["latent"]
    key = quantise(mean_latent(latent))
    tensors = tensors | {
        "latent_key.q": key.q,
        "latent_key.scale": key.scale,
        "latent_mean": latent.sum(axis=1) / np.float32(max(latent.shape[1], 1)),
        "sketch.crc": np.array(
            [sketch_crc(q, scale) for q, scale in zip(tensors["sketch.q"], tensors["sketch.scale"], strict=True)],
            np.uint32,
        ),
    }
    crc = {name: tensor_crc(name, t) for name, t in tensors.items() if name not in ("sketch.q", "sketch.scale")}
    crc[METADATA] = metadata_crc(metadata)
    metadata = metadata | {"format": str(FORMAT_VERSION), "crc": json.dumps(crc, sort_keys=True)}
    return _sort_header(safetensors.numpy.save(tensors, metadata))


def _sort_header(content: bytes) -> bytes:
    """Return the file with a sorted header, so that the same rollout always gives the same bytes."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def unpack(payload: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return tensors and metadata of a payload of any format."""
    size = int.from_bytes(payload[:8], "little")
    return safetensors.numpy.load(payload), json.loads(payload[8 : 8 + size])[METADATA]


def decode(payload: bytes) -> StepArrays:
    """Return the decisions in a payload, without sketches and images."""
    tensors, metadata = unpack(payload)
    arrays = {name: tensors[TENSOR_NAMES.get(name, name)] for name in StepArrays.__dataclass_fields__ if name != "key"}
    for name in ("explored", "source"):
        arrays[name] = np.array(json.loads(metadata[name]))[arrays[name]]
    for name in ("recallable", "proposes", "clipped"):
        arrays[name] = arrays[name].astype(bool)
    return StepArrays(key=Quantised(tensors["key.q"], tensors["key.scale"]), **arrays)


def jpegs(payload: bytes, camera: str) -> list[bytes]:
    """Return the JPEG image of a camera at each decision.

    Raises:
        KeyError: The rollout has no such camera.
    """
    tensors = safetensors.numpy.load(payload)
    offsets, blobs = tensors[f"offsets.{camera}"], tensors[f"images.{camera}"]
    return [blobs[start:end].tobytes() for start, end in zip(offsets[:-1], offsets[1:], strict=True)]


def decode_image(payload: bytes, row: int, camera: str) -> np.ndarray:
    """Return the image of a camera at one row, uint8 (height, width, 3) RGB.

    Raises:
        KeyError: The rollout has no such camera.
    """
    tensors = safetensors.numpy.load(payload)
    offsets = tensors[f"offsets.{camera}"]
    return decode_jpeg(tensors[f"images.{camera}"][offsets[row] : offsets[row + 1]])


def decode_jpeg(jpeg: np.ndarray) -> np.ndarray:
    """Decode a JPEG image, uint8 (bytes,), to uint8 (height, width, 3) RGB.

    Raises:
        ValueError: It is no image.
    """
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{len(jpeg)} bytes cannot be decoded as JPEG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _encode_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    encoded, blob = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ValueError(f"an image of shape {image.shape} cannot be encoded as JPEG")
    return blob.reshape(-1)


def checksum(content: bytes) -> str:
    """Return the checksum of a payload: BLAKE2b of 32 bytes, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def file_name(checksum: str) -> str:
    """Name the file of a payload by its content, so that a retry never replaces a file that a commit may have named."""
    return f"{checksum[:32]}.safetensors"


def tensor_crc(name: str, tensor: np.ndarray) -> int:
    """Return the CRC-32 of "name dtype shape", such as "base <f4 (50, 4, 7)", and of the tensor's bytes."""
    header = f"{name} {tensor.dtype.str} {tensor.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(tensor).data, zlib.crc32(header))


def sketch_crc(q: np.ndarray, scale: np.ndarray) -> int:
    """Return the CRC-32 of one decision's sketch, int8 (T, d) and float32 (T,)."""
    return zlib.crc32(np.ascontiguousarray(scale).data, tensor_crc("sketch", q))


def metadata_crc(metadata: dict[str, str]) -> int:
    """Return the CRC-32 of the metadata without `crc` and `format`, as JSON with sorted keys."""
    return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
