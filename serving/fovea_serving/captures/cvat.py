"""Captures to a CVAT server and its labels back, by CVAT's own SDK: `pip install fovea[cvat]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fovea_api.errors import FoveaError, InvalidInput, MissingExtra, Recoverable
from pydantic import JsonValue

from fovea_serving.captures.exchange import WITHOUT_MASKS, Picture, best_class, keep_labels, parts_of
from fovea_serving.captures.label_files import Labelled
from fovea_serving.captures.store import CaptureStore

IMAGE_QUALITY = 95
"""Of the pictures that CVAT shows; the labels are of the files as they are."""
DONE = "completed"
"""State of a job whose frames are labelled."""
ANNOTATION = "annotation"
"""Type of a job whose labels are the task's: neither ground truth, which checks others' labels, nor a replica."""


class CvatUnavailable(Recoverable):
    """The CVAT server does not answer, or not as its API says."""


@dataclass(frozen=True, slots=True)
class Server:
    """A CVAT server and who asks it.

    Args:
        url: Where it answers.
        token: Access token; None: user and password.
        user: Name.
        password: Its password.
        organization: Short name of the organization that tasks belong to; None: the user's own.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    organization: str | None = None

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A client that is logged in. Raises MissingExtra, InvalidInput, CvatUnavailable."""
        try:
            from cvat_sdk import exceptions
            from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
            from cvat_sdk.core.exceptions import CvatSdkException
            from urllib3.exceptions import HTTPError
        except ModuleNotFoundError as error:
            raise MissingExtra("cvat", "an exchange with CVAT") from error
        try:
            with Client(self.url, config=Config(status_check_period=1)) as client:
                credentials = AccessTokenCredentials(self.token) if self.token else (self.user, self.password)
                client.login(credentials)
                client.organization_slug = self.organization
                yield client
        except FoveaError:
            raise
        except exceptions.ApiException as error:
            words = f"CVAT answers {error.status} {error.reason}"
            if error.status is not None and 400 <= error.status < 500:
                raise InvalidInput(
                    words, self.url, "check the task's number, and the token or user and password"
                ) from error
            raise CvatUnavailable(words, self.url) from error
        except (CvatSdkException, HTTPError, OSError) as error:
            raise CvatUnavailable(f"CVAT does not answer as it should: {error}", self.url) from error


def push(store: CaptureStore, listed: Sequence[Picture], server: Server, name: str, classes: Sequence[str] = ()) -> int:
    """Makes a task of images with the predictions as its annotations; its number.

    Args:
        store: Where the images lie.
        listed: Which ones, in this order.
        server: The CVAT server.
        name: Name of the task.
        classes: Labels of the task beside those that are predicted.

    Raises InvalidInput, CvatUnavailable, and what stores raise.
    """
    if (other := next((each for each in listed if each.found.capture.task not in WITHOUT_MASKS), None)) is not None:
        remedy = "export them as COCO: fovea captures export --format COCO"
        raise InvalidInput(f"predictions of {other.found.capture.task} do not go to CVAT", store.root.uri, remedy)
    with server.client() as client, TemporaryDirectory(prefix="fovea-cvat-") as work:
        from cvat_sdk import models

        files = []
        for each in listed:
            file = Path(work) / each.name.rpartition("/")[2]
            file.write_bytes(store.read_image(each.found, each.index))
            files.append(file)
        predicted = {part["class"] for each in listed for part in _predicted(each)}
        labels = [models.PatchedLabelRequest(name=label) for label in (*classes, *sorted(predicted - {*classes}))]
        task = client.tasks.create(models.TaskWriteRequest(name=name, labels=labels))
        task.upload_data(files, params={"image_quality": IMAGE_QUALITY, "sorting_method": "predefined"})
        frames = {frame.name.rpartition("/")[2]: number for number, frame in enumerate(task.get_frames_info())}
        numbers = {label.name: label.id for label in task.get_labels()}
        shapes, tags = [], []
        for each in listed:
            frame = frames[each.name.rpartition("/")[2]]
            for part in parts_of(each.prediction, "objects"):
                box = {"type": "rectangle", "points": [float(edge) for edge in part["box"]], "source": "auto"}
                shapes.append(models.LabeledShapeRequest(frame=frame, label_id=numbers[part["class"]], **box))
            if (best := best_class(each.prediction)) is not None:
                tags.append(models.LabeledImageRequest(frame=frame, label_id=numbers[best["class"]], source="auto"))
        task.set_annotations(models.LabeledDataRequest(shapes=shapes, tags=tags))
        return int(task.id)


def pull(store: CaptureStore, server: Server, number: int) -> tuple[int, int]:
    """Keeps the labels of a task's completed jobs.

    Every image of a completed job counts as labelled, also one without objects, but for those that were deleted. Raises
    as `push` does, and InvalidInput where an image has other shapes than boxes: without them its label would be wrong.
    Returns how many requests have a label now, and how many images found no request.
    """
    with server.client() as client:
        task = client.tasks.retrieve(number)
        names = {label.id: label.name for label in task.get_labels()}
        meta = task.get_meta()
        files = [frame.name for frame in meta.frames]
        jobs = [job for job in task.get_jobs() if (str(job.type), str(job.state)) == (ANNOTATION, DONE)]
        done = {frame for job in jobs for frame in range(job.start_frame, job.stop_frame + 1)} - {*meta.deleted_frames}
        found: dict[int, dict[str, list[JsonValue]]] = {frame: {"objects": [], "classes": []} for frame in done}
        annotations = task.get_annotations()
        for frame, kind in _no_boxes(annotations):
            if frame in done:
                remedy = "draw upright boxes, or export it as COCO 1.0 and take that: fovea captures import"
                raise InvalidInput(f"{files[frame]} has a {kind}", f"task {number}", remedy)
        for shape in annotations.shapes:
            if shape.frame in done:
                box: list[JsonValue] = [float(edge) for edge in shape.points]
                found[shape.frame]["objects"].append({"class": names[shape.label_id], "box": box})
        for tag in annotations.tags:
            if tag.frame in done:
                found[tag.frame]["classes"].append({"class": names[tag.label_id]})
        sizes = [(int(frame.width), int(frame.height)) for frame in meta.frames]
        contents = [
            Labelled(files[frame], {name: list(parts) for name, parts in found[frame].items()}, sizes[frame])
            for frame in sorted(done)
        ]
    return keep_labels(store, contents)


def _predicted(each: Picture) -> Iterator[dict[str, Any]]:
    yield from parts_of(each.prediction, "objects")
    if (best := best_class(each.prediction)) is not None:
        yield best


def _no_boxes(annotations: Any) -> Iterator[tuple[int, str]]:
    """What is drawn and is no upright box: frame and kind."""
    for shape in annotations.shapes:
        if str(shape.type) != "rectangle":
            yield shape.frame, str(shape.type)
        elif shape.get("rotation"):
            yield shape.frame, "rotated rectangle"
    yield from ((shape.frame, "track") for track in annotations.tracks for shape in track.shapes)
