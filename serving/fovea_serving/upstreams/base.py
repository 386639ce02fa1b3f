"""What the gateway asks for predictions, whatever runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fovea_api.errors import FoveaError, InvalidInput, Retryable

from fovea_serving.pipeline import Prediction


class InvalidOptions(InvalidInput):
    """A request asks for what this model cannot give: an unknown class, tiles of a classifier."""


class UpstreamUnavailable(Retryable):
    """The runtime cannot be reached, is starting, or does not have the model yet: 503."""


class Overloaded(Retryable):
    """More is asked than can be answered in time: 429. Nothing was computed.

    Args:
        message: What is full.
        retry_after: Seconds after which asking again makes sense.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, None, f"ask again in {retry_after:.0f} s")
        self.retry_after = retry_after


class UpstreamFailed(FoveaError):
    """The model was run and failed, or its answer cannot be read: 502."""


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What a request may choose.

    Args:
        confidence: Smallest score of an object, 0 to 1. None: the model's own threshold. Below the bundle's
            `scoreThreshold` there is nothing more to be had.
        classes: Indices of the classes that are reported. None: all.
        max_detections: Objects of an image at most, best first. None: as many as the bundle says.
        tile: Side of the square tiles, in pixels of the original, that an image is cut into. None: it is not cut.
    """

    confidence: float | None = None
    classes: tuple[int, ...] | None = None
    max_detections: int | None = None
    tile: int | None = None

    def threshold(self, default: float) -> float:
        """Smallest score of an object; `default` is the model's own."""
        return default if self.confidence is None else self.confidence

    def select(self, prediction: Prediction, threshold: float) -> Prediction:
        """What is left of a prediction with all candidates.

        Args:
            prediction: The network's, after non-maximum suppression.
            threshold: The model's own, where the request chose none.
        """
        selected = prediction.above(self.threshold(threshold))
        if self.classes is not None:
            selected = selected.of(self.classes)
        return selected if self.max_detections is None else selected.first(self.max_detections)


DEFAULTS = PredictOptions()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says about one image.

    Args:
        prediction: With boxes and masks in pixels of the original, after thresholds and selection.
        width: Of the original, upright as its EXIF orientation says, in pixels.
        height: Likewise.
        batch_size: Images that went through the network together with this one. None: the runtime does not say.
    """

    prediction: Prediction
    width: int
    height: int
    batch_size: int | None = None


class Upstream(Protocol):
    """A loaded version of a model. One object serves all requests of an event loop at the same time."""

    async def predict(self, images: Sequence[bytes], options: PredictOptions = DEFAULTS) -> list[Answer]:
        """One answer for each image, in order.

        Cancelling it gives the request up: what has not been started is not computed.

        Args:
            images: Whole image files. The gateway has looked at their type, size and number.
            options: What the request chose; valid for the model's task and classes.

        Raises:
            InvalidImage: an image cannot be decoded; the message names it (`image 2`). No other request suffers.
            InvalidOptions: the model cannot do what is asked.
            Overloaded: the runtime refuses; nothing was computed.
            UpstreamUnavailable: the runtime does not answer, or has no such model.
            UpstreamFailed: the model failed.
        """

    async def ready(self) -> None:
        """Returns when the model is loaded and can answer now. Raises UpstreamUnavailable, with the reason."""

    async def close(self) -> None:
        """Answers what is under way, then lets go of connections and memory. Later calls raise UpstreamUnavailable."""
