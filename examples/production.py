"""Plays the production of `make demo`: a laboratory whose images change from one day to the next. Runs in a pod.

python - URL VERSION usual COUNT      sends train images as they are
python - URL VERSION changed COUNT    sends train images as the changed laboratory makes them, and says what is right
python - URL VERSION steady RATE      sends such images, without labels, so many a minute, until its input ends
python - URL VERSION score            prints how well such images of the test split are answered

URL is the deployment's, VERSION the dataset version that its first model was trained on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from itertools import cycle
from select import select
from tempfile import mkdtemp

import cv2
import numpy as np
from fovea_serving.client import Client, DetectedObject, ImagePrediction, RequestFailed
from fovea_serving.pipeline.predictions import Detection
from fovea_trainer.data.version import Sample, open_version

STAIN = np.array([[0.5, 0.1, 0.6], [0.1, 0.6, 0.3], [0.9, 0.4, 0.2]], np.float32)
"""What the new stain absorbs of blue, green and red, by what the old one absorbed of them (Beer and Lambert)."""
EXPOSURE = 0.6
"""Light of the new lamp, as a share of the old one's."""
SLIDE, PAUSE_SECONDS = 15, 11.0
"""Images of a slide, and the pause before the next one: what comes without a pause stays in one split."""
ASKED_AGAIN = 5
"""Times that an image is sent again whose answer did not come in time."""
PACE_SECONDS = 0.25
"""From one image to the next: a gateway looks at the pixels of at most five images a second."""


def changed(image: bytes) -> bytes:
    """The picture as the new stain and the new lamp show it."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    density = -np.log(np.maximum(pixels.astype(np.float32), 1) / 255)
    light = 255 * EXPOSURE * np.exp(-density @ STAIN.T)
    return cv2.imencode(".jpg", light.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def labels(sample: Sample, classes: Sequence[str]) -> list[DetectedObject]:
    """The objects of an image, as a person says them."""
    pairs = zip(sample.labels, sample.boxes.tolist(), strict=True)
    return [DetectedObject(classes[label], 1.0, tuple(box)) for label, box in pairs]


def f1(sample: Sample, answer: ImagePrediction, classes: Sequence[str]) -> float:
    """Share of objects that are right, at an IoU of 0.5."""
    size = (answer.width, answer.height)
    found, known = (
        Detection.from_dict(
            {"objects": [{"class": each.name, "box": list(each.box)} for each in objects]}, classes, size
        )
        for objects in (answer.objects, labels(sample, classes))
    )
    return found.agreement(known, np.arange(len(classes)))


def ask(client: Client, image: bytes) -> ImagePrediction:
    """The answer to an image; one that did not come in time is asked for again, as on a busy machine, a few times."""
    for _ in range(ASKED_AGAIN):
        try:
            return client.predict(image)
        except RequestFailed as error:
            if error.status != HTTPStatus.GATEWAY_TIMEOUT:
                raise
    return client.predict(image)


def paced(samples: Iterable[Sample], seconds: float = PACE_SECONDS) -> Iterator[Sample]:
    """One after the other, as they come off a microscope."""
    for sample in samples:
        until = time.monotonic() + seconds
        yield sample
        time.sleep(max(0.0, until - time.monotonic()))


def main(url: str, place: str, part: str, number: int = 0) -> None:
    version = open_version(place, mkdtemp())
    classes, client = version.manifest.classes, Client(url, attempts=10)
    train, test = version.split("train"), version.split("test")
    match part:
        case "usual":
            for sample in paced(train[:number]):
                ask(client, sample.image_bytes)
            print(f"{number} images as they always were")
        case "changed":
            agreed = 0
            for index, sample in enumerate(paced(train[:number])):
                if index and index % SLIDE == 0:
                    time.sleep(PAUSE_SECONDS)
                answer = ask(client, changed(sample.image_bytes))
                agreed += client.feedback(answer.request_id, objects=labels(sample, classes))
            print(f"{number} images with another stain and lamp, all labelled; {agreed} had been answered well")
        case "steady":
            for sample in paced(cycle(train[len(train) // 2 :]), 60 / number):
                if select([sys.stdin], [], [], 0)[0]:
                    break
                ask(client, changed(sample.image_bytes))
        case "score":
            pairs = [(sample, ask(client, changed(sample.image_bytes))) for sample in paced(test)]
            scores = [f1(sample, answer, classes) for sample, answer in pairs]
            print(json.dumps({"images": len(scores), "f1": sum(scores) / len(scores), "run": pairs[-1][1].run}))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
