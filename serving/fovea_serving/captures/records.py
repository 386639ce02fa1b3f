"""What is kept of a request, and what is said of it later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fovea_api.common import Fraction, Int, Model, Task, Time, Word
from fovea_api.errors import InvalidInput
from pydantic import Field, JsonValue

from fovea_serving.pipeline import Prediction, prediction_type
from fovea_serving.pipeline.profile import is_right

Reason = Literal["answer", "sample", "lowConfidence", "disagreement", "outlier"]
"""Why it was kept. `answer`: for feedback alone, without its images."""


class ImageAnswer(Model):
    """One image of a request with its prediction."""

    file: Annotated[str, Field(max_length=256)] | None = None
    """Name of the image beside the record. Absent: it is not kept."""
    width: Int
    """Width of the upright image in pixels."""
    height: Int
    """Height of the upright image in pixels."""
    confidence: Fraction | None = None
    """Best score. Absent: there is none."""
    prediction: Mapping[str, JsonValue]
    """As it was answered, with masks."""


class Capture(Model):
    """A request that was answered: `<folder>/<request id>.json`."""

    id: Word
    """Id of the request."""
    time: Time
    """When it was answered."""
    run: Word
    """Version of the model that answered."""
    role: Literal["Stable", "Candidate", "Shadow"]
    """Its role then."""
    task: Task
    """What it predicts."""
    reason: Reason
    """Why it was kept."""
    client: Word
    """Digest of who asked: by it, and by the time, captures of a burst are of one group."""
    images: tuple[ImageAnswer, ...]
    """The images in the order of the request."""

    @property
    def has_images(self) -> bool:
        """Whether its images are kept."""
        return all(image.file is not None for image in self.images)


class VersionAnswer(Model):
    """What one version said of a request."""

    run: Word
    """Version of the model."""
    role: Literal["Stable", "Candidate", "Shadow"]
    """Its role then."""
    images: tuple[ImageAnswer, ...]
    """The images in the order of the request."""


class AnsweredPair(Model):
    """What candidate and stable said of one request: `<folder>/<request id>~pair.json`."""

    candidate: VersionAnswer
    """The version that was tried."""
    stable: VersionAnswer
    """The version that it was compared with."""


class Label(Model):
    """What is right for a request: `<folder>/<request id>~label.json`."""

    time: Time
    """When it came."""
    source: Literal["feedback", "import"]
    """Where it came from."""
    wrong: bool | None = None
    """Whether the answer is wrong, where no more is known. Such a label trains nothing."""
    images: tuple[Mapping[str, JsonValue], ...] = ()
    """For each image what is right, in the form of a prediction."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A capture with its place and its label.

    Args:
        folder: Where it lies, such as 2026-11-26.
        capture: The capture.
        label: None: it has none.
    """

    folder: str
    capture: Capture
    label: Label | None = None


def is_right_answer(task: Task, answers: Sequence[ImageAnswer], label: Label) -> bool:
    """Whether all images of a request were answered rightly. Raises InvalidInput where the label does not fit."""
    if label.wrong is not None:
        return not label.wrong
    if len(label.images) != len(answers):
        words = f"{len(label.images)} labels for a request of {len(answers)} images"
        raise InvalidInput(words, "images", "give one for each image, in the order of the request")
    return all(_is_right(task, image, content) for image, content in zip(answers, label.images, strict=True))


def prediction_of(task: Task, image: ImageAnswer, content: Mapping[str, JsonValue]) -> tuple[Prediction, list[str]]:
    """A label or an answer in its JSON form as a prediction, with the classes that it names, in order."""
    classes = sorted(set(_names(content)))
    return prediction_type(task).from_dict(content, classes, (image.width, image.height)), classes


def _is_right(task: Task, image: ImageAnswer, content: Mapping[str, JsonValue]) -> bool:
    kind, size = prediction_type(task), (image.width, image.height)
    classes = sorted({*_names(image.prediction), *_names(content)})
    answer = kind.from_dict(image.prediction, classes, size)
    return is_right(answer, kind.from_dict(content, classes, size), len(classes))


def _names(content: Mapping[str, JsonValue]) -> Iterator[str]:
    for field in ("objects", "classes"):
        parts = content.get(field)
        if isinstance(parts, Sequence) and not isinstance(parts, str):
            yield from (str(part["class"]) for part in parts if isinstance(part, Mapping) and "class" in part)
