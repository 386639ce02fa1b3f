"""What drift detection compares: features of images and answers, their bins, and the metrics that carry them.

A gateway counts each feature in a Prometheus histogram, so that replicas and gateways can be summed, and exports beside
it the reference profile of the bundle in the same bins. The bins are the same for all models: a window that spans a
promotion can be summed, and the first week of production can take the reference's place.

| series | labels beside namespace, deployment, run, role | what it counts |
|---|---|---|
| `<metric>_bucket` | `le` | images, cumulative: a histogram of each feature with edges |
| `fovea_serving_class_images_total` | `class` | images by predicted class |
| `fovea_serving_reference_bucket` | `feature`, `le` | the reference of a feature with edges, cumulative |
| `fovea_serving_reference_class_images` | `class` | the reference of the predicted classes |
| `fovea_serving_reference_items` | | images of the reference |
| `fovea_serving_reference_accuracy` | | share of them that were answered rightly |
| `fovea_serving_labelled_total` | `outcome` | answers whose label came later, each once: right, wrong |
| `fovea_serving_labelled_pairs_total` | `stable`, `outcome` | labelled requests that both versions answered: both, candidate, stable, neither; `run` is the candidate's |
| `fovea_serving_stored_captures` | `label` | captures in the store, as this gateway last saw them: none, some |

All gateways see the same store, so the last is read as the maximum over them; everything else is summed, but for the
reference, of which any gateway's is as good.
"""  # noqa: E501  (a table)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from fovea_api.common import ClassName, Fraction, Int, Model, Number, Word

PROFILE = "profile.json"
"""File of a bundle: the reference profile. A bundle may lack it; drift is unknown then."""

CLASSES = "fovea_serving_class_images_total"
"""Images by predicted class: an image with objects of several classes counts for each by its share of the objects."""
NO_CLASS = "(none)"
"""The class of an image without any object."""
OTHER_CLASSES = "(other)"
"""The class of those beyond MAX_CLASSES."""
MAX_CLASSES = 100
"""Classes that are counted by name, in the order of the model's; bounds the number of series."""
REFERENCE = "fovea_serving_reference_bucket"
REFERENCE_CLASSES = "fovea_serving_reference_class_images"
REFERENCE_ITEMS = "fovea_serving_reference_items"
REFERENCE_ACCURACY = "fovea_serving_reference_accuracy"
LABELLED = "fovea_serving_labelled_total"
LABELLED_PAIRS = "fovea_serving_labelled_pairs_total"
STORED_CAPTURES = "fovea_serving_stored_captures"

Outcome = Literal["right", "wrong"]
PairOutcome = Literal["both", "candidate", "stable", "neither"]
Detector = Literal["ImageProperties", "ModelOutputs", "Embeddings", "LabelShift"]
"""As `spec.monitoring.drift.detectors` names them."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A number that every image, or every answer, has.

    Args:
        name: Its name in the profile and in the label `feature`.
        metric: The histogram of it, without `_bucket`.
        detector: The detector that looks at it.
        edges: Upper edges of the bins, rising; a last bin holds what is above. A value on an edge is below it.
        description: What it is, with its unit.
    """

    name: str
    metric: str
    detector: Detector
    edges: tuple[float, ...]
    description: str

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.edges) + 1


def _steps(first: float, step: float, last: float) -> tuple[float, ...]:
    return tuple(round(first + step * index, 6) for index in range(round((last - first) / step) + 1))


def _half_octaves(first: float, count: int) -> tuple[float, ...]:
    return tuple(float(f"{first * 2 ** (index / 2):.4g}") for index in range(count))


_DEVIATIONS = _steps(-4, 0.5, 4)
_CONFIDENCES = (*_steps(0.05, 0.05, 0.95), 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
_SHARES = _steps(1 / 32, 1 / 32, 1 - 1 / 32)
_COUNTS = (0, 1, 2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 56, 80, 113, 160, 226)

FEATURES: Mapping[str, Feature] = {
    feature.name: feature
    for feature in (
        Feature(
            "brightness",
            "fovea_serving_image_brightness",
            "ImageProperties",
            _SHARES,
            "Mean luma of an image, from 0 to 1.",
        ),
        Feature(
            "contrast",
            "fovea_serving_image_contrast",
            "ImageProperties",
            _steps(1 / 64, 1 / 64, 0.5),
            "Standard deviation of an image's luma, from 0 to 0.5.",
        ),
        Feature(
            "saturation",
            "fovea_serving_image_saturation",
            "ImageProperties",
            _SHARES,
            "Mean saturation (HSV) of an image, from 0 to 1.",
        ),
        Feature(
            "sharpness",
            "fovea_serving_image_sharpness",
            "ImageProperties",
            _half_octaves(1, 28),
            "Variance of the Laplacian of an image's luma, in squares of 8-bit levels.",
        ),
        Feature(
            "noise",
            "fovea_serving_image_noise",
            "ImageProperties",
            _half_octaves(0.125, 19),
            "Standard deviation of an image's noise, in 8-bit levels.",
        ),
        Feature(
            "size",
            "fovea_serving_image_megapixels",
            "ImageProperties",
            (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.4, 2, 3, 5, 7, 10, 14, 20, 30, 50, 100),
            "Size of an image in megapixels.",
        ),
        Feature(
            "aspect",
            "fovea_serving_image_aspect_ratio",
            "ImageProperties",
            (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.26, 1.4, 1.6, 1.9, 2.5, 4),
            "Width by height of an image.",
        ),
        Feature(
            "confidence",
            "fovea_serving_confidence",
            "ModelOutputs",
            _CONFIDENCES,
            "Best score of an image: of its most certain object or class.",
        ),
        Feature(
            "objects",
            "fovea_serving_objects",
            "ModelOutputs",
            _COUNTS,
            "Objects found in an image, or classes of its pixels.",
        ),
        Feature(
            "embedding1",
            "fovea_serving_embedding_1",
            "Embeddings",
            _DEVIATIONS,
            "First principal component of an image, in standard deviations of the reference.",
        ),
        Feature(
            "embedding2",
            "fovea_serving_embedding_2",
            "Embeddings",
            _DEVIATIONS,
            "Second principal component of an image, in standard deviations of the reference.",
        ),
        Feature(
            "embeddingRest",
            "fovea_serving_embedding_rest",
            "Embeddings",
            _DEVIATIONS,
            "What the principal components leave of an image, in standard deviations of the reference from its mean.",
        ),
    )
}
"""All features with edges, by name. The predicted class, which has none, is counted by CLASSES."""


def bin_counts(feature: Feature, cumulative: Mapping[float, float]) -> tuple[float, ...] | None:
    """Images in each bin, from a histogram's buckets by their upper edge `le`. None: a bucket is missing."""
    edges = (*feature.edges, float("inf"))
    if any(edge not in cumulative for edge in edges):
        return None
    found = [cumulative[edge] for edge in edges]
    return (found[0], *(after - before for before, after in pairwise(found)))


Count = Annotated[Int, Field(ge=0)]


class EmbeddingBasis(Model):
    """What turns a thumbnail into the features called embedding."""

    side: Annotated[Int, Field(ge=2, le=64)]
    """Width and height of the thumbnail in pixels."""
    mean: tuple[Number, ...]
    """Mean thumbnail: values from 0 to 1, by row, column and channel."""
    components: Annotated[tuple[tuple[Number, ...], ...], Field(max_length=2)]
    """Principal components, each as long as the mean."""
    centres: Annotated[tuple[Number, ...], Field(min_length=3, max_length=3)]
    """Means over the reference of the components and of the rest."""
    deviations: Annotated[tuple[Number, ...], Field(min_length=3, max_length=3)]
    """Standard deviations over the reference."""


class ReferenceProfile(Model):
    """What a model's images and answers were like, on images that it was not trained on: `profile.json` of a bundle."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    splits: tuple[Word, ...]
    """Splits that the images are of."""
    items: Count
    """Number of images."""
    features: Mapping[str, tuple[Count, ...]]
    """For each feature the images in each bin; a feature that the task lacks is absent."""
    classes: Mapping[ClassName, Number]
    """Images by predicted class, as CLASSES counts them."""
    accuracy: Fraction | None = None
    """Share of the images that were answered rightly. Absent: not known."""
    embedding: EmbeddingBasis | None = None
    """Basis of the embedding. Absent: too few images."""
    thumbnails: Annotated[tuple[str, ...], Field(max_length=32)] = ()
    """Some of the images as JPEG in base64, for the drift report."""
