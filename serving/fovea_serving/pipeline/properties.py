"""What an image is like, whatever it shows: the features by which drift is seen.

Sharpness is the variance of the Laplacian (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR
2000); noise the mean absolute response of the difference of two Laplacians, which plain edges do not excite (Immerkær,
Fast noise variance estimation, Computer Vision and Image Understanding 64, 1996). Both are of the pixels as they are,
everything else is of a reduced image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from fovea_api.profile import EmbeddingBasis
from numpy.typing import NDArray

REDUCED_SIDE = 256
"""Longer side in pixels of the image that means are taken of."""
DETAIL_SIDE = 512
"""Sides in pixels of the middle part that sharpness and noise are measured on: bounds their time."""
THUMBNAIL_SIDE = 16
COMPONENTS = 2

_DIFFERENCE_OF_LAPLACIANS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def image_properties(image: NDArray[np.uint8]) -> dict[str, float]:
    """Brightness, contrast, saturation, sharpness and noise of an RGB image `[height, width, 3]`.

    Units are those of `fovea_api.profile.FEATURES`.
    """
    reduced = _reduced(image)
    luma = cv2.cvtColor(reduced, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(luma)
    saturation = cv2.mean(cv2.cvtColor(reduced, cv2.COLOR_RGB2HSV))[1]
    detail = np.asarray(cv2.cvtColor(_middle(image), cv2.COLOR_RGB2GRAY), np.uint8)
    return {
        "brightness": float(mean[0, 0]) / 255,
        "contrast": float(deviation[0, 0]) / 255,
        "saturation": saturation / 255,
        "sharpness": float(cv2.meanStdDev(cv2.Laplacian(detail, cv2.CV_32F))[1][0, 0] ** 2),
        "noise": _noise(detail),
    }


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A square of THUMBNAIL_SIDE pixels that the whole image was shrunk to, flat."""
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(cv2.resize(_reduced(image), side, interpolation=cv2.INTER_AREA), np.uint8).reshape(-1)


@dataclass(frozen=True)
class Embedding:
    """Where an image lies among those of a basis: two principal components of its thumbnail, and what they leave.

    It is one of colours and coarse layout, which any runtime's gateway can afford; it is not the network's.
    """

    basis: EmbeddingBasis

    @classmethod
    def fit(cls, thumbnails: Sequence[NDArray[np.uint8]]) -> Embedding | None:
        """The embedding of the images with these thumbnails; None where they are fewer than the components need."""
        if len(thumbnails) <= COMPONENTS:
            return None
        values = np.stack(thumbnails).astype(np.float64) / 255
        mean = values.mean(0)
        centred = values - mean
        components = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :COMPONENTS]
        found = _coordinates(centred, components)
        return cls(
            EmbeddingBasis(
                side=THUMBNAIL_SIDE,
                mean=_rounded(mean),
                components=tuple(_rounded(component) for component in components.T),
                centres=_rounded(found.mean(0)),
                deviations=_rounded(np.maximum(found.std(0), 1e-6)),
            )
        )

    def of(self, shrunk: NDArray[np.uint8]) -> dict[str, float]:
        """The features `embedding1`, `embedding2` and `embeddingRest` of a thumbnail."""
        mean, components, centres, deviations = self._arrays
        found = _coordinates((shrunk.astype(np.float64) / 255 - mean)[None], components)[0]
        names = ("embedding1", "embedding2", "embeddingRest")
        return dict(zip(names, ((found - centres) / deviations).tolist(), strict=True))

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.float64], ...]:
        basis = self.basis
        return np.array(basis.mean), np.array(basis.components).T, np.array(basis.centres), np.array(basis.deviations)


def measured(image: NDArray[np.uint8], embedding: Embedding | None) -> Mapping[str, float]:
    """All features of an image that need its pixels."""
    return image_properties(image) | ({} if embedding is None else embedding.of(thumbnail(image)))


def _coordinates(centred: NDArray[np.float64], components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates `[N, COMPONENTS]` and the length of what they leave `[N, 1]`."""
    found = centred @ components
    rest = np.sqrt(np.maximum((centred**2).sum(1) - (found**2).sum(1), 0))
    return np.concatenate((found, rest[:, None]), 1)


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = REDUCED_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    top, left = (max(0, (side - DETAIL_SIDE) // 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + DETAIL_SIDE, left : left + DETAIL_SIDE])


def _noise(luma: NDArray[np.uint8]) -> float:
    response = cv2.filter2D(luma, cv2.CV_32F, _DIFFERENCE_OF_LAPLACIANS)[1:-1, 1:-1]
    return float(math.sqrt(math.pi / 2) / 6 * np.abs(response).mean()) if response.size else 0.0


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
