"""The drift report, by its command, from a bundle and captures."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_api.profile import PROFILE, ReferenceProfile
from fovea_cli.drift import command
from fovea_serving.captures import Capture, CaptureStore, ImageAnswer, Label
from fovea_serving.captures.live import most_different
from fovea_serving.pipeline import Classification, decode
from fovea_serving.pipeline.profile import ProfileBuilder, size_features
from fovea_serving.pipeline.properties import Embedding, measured, thumbnail
from fovea_store import StorePath
from fovea_trainer.report.drift import moved
from PIL import Image

from tests.unit.serving.conftest import write_bundle, write_model

CLASSES = ("red", "green", "blue")
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def noisy(random: np.random.Generator, level: float) -> bytes:
    buffer = io.BytesIO()
    pixels = np.clip(random.normal(level, 20, (40, 50, 3)) + random.normal(0, 10), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def profile_of(files: list[bytes], shown: list[str]) -> ReferenceProfile:
    images = [decode(each) for each in files]
    embedding = Embedding.fit([thumbnail(each) for each in images])
    builder = ProfileBuilder(Task.CLASSIFICATION, CLASSES, embedding)
    for index, each in enumerate(images):
        prediction = Classification(np.array([0.9, 0.08, 0.02], np.float32)[[index % 2, 1 - index % 2, 2]])
        builder.add({**measured(each, embedding), **size_features(50, 40)}, prediction, index % 10 > 0)
    return builder.finish(["test"], shown)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import base64

    random = np.random.default_rng(0)
    files = [noisy(random, 128) for _ in range(150)]
    profile = profile_of(files, [base64.b64encode(files[0]).decode()])

    def write(folder: Path) -> None:
        write_model(folder / "model.onnx")
        (folder / PROFILE).write_text(profile.model_dump_json(by_alias=True))

    return write_bundle(tmp_path_factory.mktemp("bundle"), write, Task.CLASSIFICATION)


def capture(store: CaptureStore, name: str, image: bytes, minutes: float, reason: str = "sample") -> None:
    prediction = {"classes": [{"class": "red", "score": 0.6}]}
    answer = ImageAnswer(file=f"{name}-0.png", width=50, height=40, confidence=0.6, prediction=prediction)
    kept = Capture.model_validate(
        {
            "id": name,
            "time": NOON + timedelta(minutes=minutes),
            "run": "r-0123456789",
            "role": "Stable",
            "task": Task.CLASSIFICATION,
            "reason": reason,
            "client": "c0",
            "images": (answer,),
        }
    )
    store.write(kept, [image])


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    """Twelve hours of dark images of the uniform sample, edge cases that are white, and bright images a week ago."""
    random, store = np.random.default_rng(1), CaptureStore(StorePath.parse(str(tmp_path / "kept")), timedelta(days=30))
    for index in range(40):
        capture(store, f"dark{index}", noisy(random, 50), index)
    for index in range(5):
        capture(store, f"edge{index}", noisy(random, 250), index, "lowConfidence")
    capture(store, "old", noisy(random, 128), -7 * 1440)
    (unread,) = (each for each in store.all() if each.capture.id == "dark4")
    store.label(unread, Label(time=NOON, source="import", images=({"classes": "no list"},)))
    for found in [each for each in store.all() if each.capture.id in ("dark1", "dark2", "dark3")]:
        right = "red" if found.capture.id == "dark1" else "blue"
        label = Label(time=NOON, source="import", images=({"classes": [{"class": right}]},))
        store.label(found, label)
    return store


def report(bundle: Path, store: CaptureStore, to: Path, *options: str) -> Result:
    return CliRunner().invoke(command, ["report", str(bundle), store.root.uri, "--to", str(to), *options])


def rows(html: str) -> dict[str, str]:
    """Of each feature what is said of it."""
    return {
        name: word
        for word, name in re.findall(r"<tr><td><span[^>]*>([^<]+)</span></td><td>([^<]+)</td>", html)
    }  # fmt: skip


def test_what_moved_stands_first_with_pictures_of_then_and_now(
    bundle: Path, store: CaptureStore, tmp_path: Path
) -> None:
    done = report(bundle, store, tmp_path / "drift.html")
    assert (done.exit_code, done.output.strip()) == (0, str(tmp_path / "drift.html"))
    html = (tmp_path / "drift.html").read_text()
    found = rows(html)
    assert found["brightness"] == found["classes"] == "moved"
    assert found["size"] == found["aspect"] == "as before"
    assert "40</b>" in html or ">40<" in html, "edge cases and what is older are not counted"
    assert html.count("data:image/jpeg") == 1 + 12
    assert not re.search(r"(src|href)=\"(?!data:|#)", html), "nothing is fetched"
    assert "33.3%" in html, "one of three labelled images was answered rightly"
    assert "2026-11-26 12:00 to 2026-11-26 12:39" in html
    assert "brightness 0" in html, "the caption of a picture says what is odd"


def test_edge_cases_alone_are_counted_with_a_warning(bundle: Path, tmp_path: Path) -> None:
    random, store = np.random.default_rng(2), CaptureStore(StorePath.parse(str(tmp_path / "kept")), timedelta(days=30))
    for index in range(20):
        capture(store, f"edge{index}", noisy(random, 128), index, "lowConfidence")
    assert report(bundle, store, tmp_path / "drift.html").exit_code == 0
    html = (tmp_path / "drift.html").read_text()
    assert "sampleRate" in html
    assert rows(html)["brightness"] != "moved"


def test_captures_of_another_version_are_no_present(bundle: Path, store: CaptureStore, tmp_path: Path) -> None:
    done = report(bundle, store, tmp_path / "drift.html", "--run", "r-2")
    assert isinstance(done.exception, InvalidInput)
    assert "r-0123456789" in str(done.exception)


def test_images_like_the_reference_have_not_moved() -> None:
    random = np.random.default_rng(3)
    profiles = [profile_of([noisy(random, 128) for _ in range(150)], []) for _ in range(2)]
    found = {each.name: each.word for each in moved(*profiles)}
    assert "moved" not in [word for name, word in found.items() if not name.startswith("embedding")]


def test_of_a_burst_one_picture_is_shown_first(bundle: Path, store: CaptureStore) -> None:
    from fovea_serving.bundle import load_bundle
    from fovea_serving.captures.live import live_profile

    random, loaded = np.random.default_rng(4), load_bundle(bundle)
    for index in range(10):
        capture(store, f"burst{index}", noisy(random, 255), 100 + index / 60)
    reference = loaded.profile()
    assert reference is not None
    live = live_profile(store, loaded.manifest, reference, "r-0123456789", timedelta(days=1))
    shown = [each.picture.found.capture.id for each in most_different(live.pictures, 4)]
    assert sum(name.startswith("burst") for name in shown) == 1
