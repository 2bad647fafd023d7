# SPDX-License-Identifier: MIT
"""Features of one camera's images under an instruction, and their comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from efn_ros.experiments.image_reranking.phrases import target_phrase
from efn_ros.experiments.image_reranking.similarity import (
    appearance_similarity,
    image_similarity,
    instruction_gate,
    relation_features,
    relation_similarity,
)
from efn_ros.types import Observation

if TYPE_CHECKING:
    from efn_ros.experiments.image_reranking.detector import OpenVocabularyDetector
    from efn_ros.experiments.image_reranking.encoder import ContrastiveEncoder

THIRD_OF_RANGE = 1 / 3  # sigma of (35): every entry of r varies within [0, 1] (D.9)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of one image under an instruction, or of N images side by side; float32."""

    z: np.ndarray  # image features of unit norm, (..., dz); dz is 0 without an encoder
    relation: np.ndarray  # r of `relation_features`, (..., 4)
    text: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # (dz,); (0,) for stored images


def compare(
    stored: ImageFeatures,
    present: ImageFeatures,
    weights: Sequence[float],
    sigma: float | Sequence[float] = THIRD_OF_RANGE,
) -> np.ndarray:
    """Return S_image (36) of N stored images and the present one, float32 (N,).

    Args:
        stored: Of N images.
        present: Of one image, with the instruction.
        weights: As of `image_similarity`.
        sigma: As of `relation_similarity`.

    Raises:
        ValueError: Weights or sigma are out of range.
    """
    return image_similarity(
        appearance_similarity(stored.z, present.z),
        instruction_gate(stored.z, present.z, present.text),
        relation_similarity(stored.relation, present.relation, sigma),
        weights,
    )


class ImageFeatureExtractor:
    """Computes the features of one camera's images."""

    def __init__(
        self,
        camera: str,
        *,
        encoder: ContrastiveEncoder | None = None,
        detector: OpenVocabularyDetector | None = None,
        gripper: str = "robot gripper",
        opening: int | None = None,
        opening_range: Sequence[float] = (0.0, 1.0),
    ) -> None:
        """Combine networks and telemetry; the features of what is missing are absent.

        Args:
            camera: Whose images are compared.
            encoder: Of images and instructions.
            detector: Of gripper and target.
            gripper: Words by which the detector finds the gripper.
            opening: Entry of proprioception that measures the gripper's opening; None: none does.
            opening_range: Its values shut and open, in its units.

        Raises:
            ValueError: There is neither encoder nor detector, or the range has no extent.
        """
        if encoder is None and detector is None:
            raise ValueError("there is neither encoder nor detector; comparing images needs at least one")
        shut, wide = opening_range
        if shut == wide:
            raise ValueError(f"opening_range is {opening_range}; its values shut and open must differ")
        self.camera, self.encoder, self.detector = camera, encoder, detector
        self._gripper, self._opening, self._range = gripper, opening, (shut, wide)

    @property
    def identity(self) -> str:
        """Names all that features depend on beside the observation; those of another identity are not comparable."""
        networks = [part.identity if part else "none" for part in (self.encoder, self.detector)]
        return f"{self.camera}:{':'.join(networks)}:{self._gripper}:{self._opening}:{self._range}"

    def __call__(self, observation: Observation) -> ImageFeatures:
        """Return the features of an observation.

        Raises:
            ValueError: The observation has no image of the camera.
        """
        if self.camera not in observation.images:
            raise ValueError(
                f"image of camera {self.camera!r} is missing; name one of {sorted(observation.images)} as the camera"
            )
        image, instruction = observation.images[self.camera], observation.context.instruction
        relation = self.relation(image, target_phrase(instruction), observation.proprio)
        text = self.encoder.text(instruction) if self.encoder else np.zeros(0, np.float32)
        return ImageFeatures(self.features([image])[0], relation, text)

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return z (N, dz) of N images, each uint8 (height, width, 3), in one forward pass."""
        return self.encoder.images(images) if self.encoder else np.zeros((len(images), 0), np.float32)

    def relation(self, image: np.ndarray, target: str, proprio: np.ndarray) -> np.ndarray:
        """Return r (4,) of an image.

        Args:
            image: uint8 (height, width, 3).
            target: Words by which the detector finds the target.
            proprio: (P,).
        """
        gripper_box, target_box = self.detector.boxes(image, [self._gripper, target]) if self.detector else (None, None)
        opening = np.nan
        if self._opening is not None:
            shut, wide = self._range
            opening = np.clip((proprio[self._opening] - shut) / (wide - shut), 0, 1)
        return relation_features(gripper_box, target_box, image.shape[:2], opening)
