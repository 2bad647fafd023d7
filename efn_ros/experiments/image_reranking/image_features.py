"""What is compared of an image under an instruction, and what makes it of a camera's image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from efn_ros.experiments.image_reranking.phrases import target_of
from efn_ros.experiments.image_reranking.similarity import (
    appearance,
    gate,
    image_similarity,
    relation,
    relation_features,
)
from efn_ros.types import Observation

if TYPE_CHECKING:
    from efn_ros.experiments.image_reranking.detector import OpenVocabularyDetector
    from efn_ros.experiments.image_reranking.encoder import ContrastiveEncoder

THIRD_OF_RANGE = 1 / 3  # sigma of (35): every entry of r varies within [0, 1] (D.9)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """One image under an instruction, or N of them side by side; float32.

    z: (..., dz), image feature of unit norm; dz is 0 without an encoder. relation: r (..., 4), NaN where absent. text:
    (dz,), of the instruction; (0,) in what is remembered, which is compared under the present one.
    """

    z: np.ndarray
    relation: np.ndarray
    text: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def compare(
    remembered: ImageFeatures,
    present: ImageFeatures,
    weights: Sequence[float],
    sigma: float | Sequence[float] = THIRD_OF_RANGE,
) -> np.ndarray:
    """S_image (36) of N remembered looks and the present one, float32 (N,). weights: of `image_similarity`; sigma: of
    `relation`; errors are theirs."""
    terms = (
        appearance(remembered.z, present.z),
        gate(remembered.z, present.z, present.text),
        relation(remembered.relation, present.relation, sigma),
    )
    return image_similarity(*terms, weights)


class ImageFeatureExtractor:
    """Makes looks of one camera's images.

    encoder, detector: either may be missing; then what it tells is absent. gripper: the words by which the detector
    finds the gripper. opening: index in proprioception of how far the gripper is open; None if nothing says so.
    opening_range: its values shut and open, in its units. Raises ValueError where there is neither encoder nor
    detector, and for a range without extent.
    """

    def __init__(
        self,
        camera: str,
        *,
        encoder: ContrastiveEncoder | None = None,
        detector: OpenVocabularyDetector | None = None,
        gripper: str = "robot gripper",
        opening: int | None = None,
        opening_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if encoder is None and detector is None:
            raise ValueError("there is neither encoder nor detector; looking at images needs at least one")
        if opening_range[0] == opening_range[1]:
            raise ValueError(f"opening_range is {opening_range}; its values shut and open must differ")
        self.camera, self.encoder, self.detector = camera, encoder, detector
        self._gripper, self._opening, self._range = gripper, opening, opening_range

    @property
    def identity(self) -> str:
        """Of all that looks depend on beside image, instruction and proprioception: looks of another one cannot be
        compared."""
        networks = [part.identity if part else "none" for part in (self.encoder, self.detector)]
        return f"{self.camera}:{':'.join(networks)}:{self._gripper}:{self._opening}:{self._range}"

    def __call__(self, observation: Observation) -> ImageFeatures:
        """The present look. Raises ValueError for an observation without the camera's image."""
        if self.camera not in observation.images:
            raise ValueError(
                f"image of camera {self.camera!r} is missing; name one of {sorted(observation.images)} to look at"
            )
        image, instruction = observation.images[self.camera], observation.context.instruction
        relation = self.relation(image, target_of(instruction), observation.proprio)
        text = self.encoder.text(instruction) if self.encoder else np.zeros(0, np.float32)
        return ImageFeatures(self.features([image])[0], relation, text)

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """z (N, dz) of N images, each uint8 (height, width, 3), in one forward pass."""
        return self.encoder.images(images) if self.encoder else np.zeros((len(images), 0), np.float32)

    def relation(self, image: np.ndarray, target: str, proprio: np.ndarray) -> np.ndarray:
        """r (4,) of one image, the words of what the instruction is about, and proprioception (P,)."""
        boxes = self.detector.boxes(image, [self._gripper, target]) if self.detector else (None, None)
        opening = np.nan
        if self._opening is not None:
            shut, wide = self._range
            opening = np.clip((proprio[self._opening] - shut) / (wide - shut), 0, 1)
        return relation_features(*boxes, image.shape[:2], opening)
