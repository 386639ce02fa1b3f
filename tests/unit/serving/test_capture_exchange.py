"""Captures out to labelling tools and back."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_cli.captures import command
from fovea_serving.captures import Capture, CaptureStore, ImageAnswer
from fovea_serving.captures.exchange import FORMATS, export, k_centre, keep_labels, pictures, take_labels
from fovea_store import StorePath
from fovea_trainer.data.formats import Options, Tree
from fovea_trainer.data.formats.coco import open_reader
from fovea_trainer.data.records import SourceImage
from PIL import Image
from pydantic import JsonValue

START = datetime(2026, 11, 26, 10, tzinfo=UTC)
BOX = [10.0, 5.0, 30.0, 25.0]


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), (level, level, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def filled(folder: Path, seconds: dict[str, float], task: Task = Task.DETECTION) -> CaptureStore:
    """Captures `a`, `b`, … of one client, so many seconds after the start."""
    store = CaptureStore(StorePath.parse(str(folder)), timedelta(days=30))
    parts = [{"class": "RBC", "score": 0.4, "box": BOX}, {"class": "WBC", "score": 0.3, "box": [0.0, 0.0, 9.0, 9.0]}]
    known = {"objects": parts} if task == Task.DETECTION else {"classes": [{"class": "RBC", "score": 0.4}]}
    for index, (name, after) in enumerate(seconds.items()):
        image = ImageAnswer(file=f"{name}-0.png", width=60, height=40, confidence=0.02 * index, prediction=known)
        capture = Capture(
            id=name,
            time=START + timedelta(seconds=after),
            run="r-1",
            role="Stable",
            task=task,
            reason="sample",
            client="c0",
            images=(image,),
        )
        store.write(capture, [png(8 * index)])
    return store


def test_a_burst_is_one_group_and_a_pause_ends_it(tmp_path: Path) -> None:
    found = pictures(filled(tmp_path, {"a": 0, "b": 9, "c": 18, "d": 40}))
    groups = {each.found.capture.id: each.group for each in found}
    assert groups["a"] == groups["b"] == groups["c"] != groups["d"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("task", [Task.DETECTION, Task.CLASSIFICATION])
def test_predictions_go_out_and_come_back_as_labels(tmp_path: Path, form: str, task: Task) -> None:
    store = filled(tmp_path / "captures", {"a": 0, "b": 100}, task)
    export(store, pictures(store), tmp_path / "out", form)
    (file,) = (path for path in (tmp_path / "out").iterdir() if path.is_file())
    if form == "LabelStudio":  # what its users do: a prediction becomes an annotation when it is accepted
        tasks = json.loads(file.read_text())
        tasks[0]["annotations"] = tasks[0]["predictions"]
        file.write_text(json.dumps(tasks))
    assert take_labels(store, file, form) == (1 if form == "LabelStudio" else 2, 0)
    label = pictures(store)[0].label
    assert label is not None
    field = "objects" if task == Task.DETECTION else "classes"
    first = label[field][0]  # type: ignore[index, call-overload]
    assert first["class"] == "RBC"
    assert task == Task.CLASSIFICATION or first["box"] == pytest.approx(BOX)


def test_labelled_captures_are_a_source_of_a_dataset(tmp_path: Path) -> None:
    store = filled(tmp_path / "captures", {"a": 0, "b": 100})
    export(store, pictures(store)[:1], tmp_path / "out", "COCO")
    take_labels(store, tmp_path / "out/annotations.json", "COCO")
    result = CliRunner().invoke(
        command, ["export", f"file://{tmp_path}/captures", str(tmp_path / "source"), "--labels"], catch_exceptions=False
    )
    assert "1 images" in result.output
    reader = open_reader(Tree.of(StorePath.parse(str(tmp_path / "source"))), Options(Task.DETECTION))
    (image,) = (each for each in reader.scan() if isinstance(each, SourceImage))
    assert image.labels is not None
    assert next((box.name, box.corners) for box in image.labels.boxes) == ("RBC", tuple(BOX))


def test_unknown_images_and_broken_files_change_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "captures", {"a": 0})
    export(store, pictures(store), tmp_path / "out", "COCO")
    store.delete("a")
    assert take_labels(store, tmp_path / "out/annotations.json", "COCO") == (0, 1)
    (tmp_path / "broken.xml").write_text("<annotations")
    with pytest.raises(InvalidInput, match="this is no CVAT file"):
        take_labels(store, tmp_path / "broken.xml", "CVAT")


@pytest.mark.parametrize(
    ("form", "upright", "other"),
    [
        ("CVAT", 'occluded="0"', 'rotation="12.00"'),
        ("CVAT", "<box", '<polygon label="RBC" points="1,2;3,4;5,6" /><box'),
        ("LabelStudio", '"rotation": 0', '"rotation": 12'),
        ("LabelStudio", '"type": "rectanglelabels"', '"type": "ellipselabels"'),
    ],
)
def test_other_shapes_than_upright_boxes_are_refused(tmp_path: Path, form: str, upright: str, other: str) -> None:
    store = filled(tmp_path / "captures", {"a": 0})
    export(store, pictures(store), tmp_path / "out", form)
    (file,) = (path for path in (tmp_path / "out").iterdir() if path.is_file())
    text = file.read_text().replace('"predictions"', '"annotations"')
    file.write_text(text.replace(upright, other, 1))
    with pytest.raises(InvalidInput, match="draw upright boxes"):
        take_labels(store, file, form)
    file.write_text(text)
    assert take_labels(store, file, form) == (1, 0)


def test_labels_of_another_task_are_refused_and_none_is_kept(tmp_path: Path) -> None:
    store = filled(tmp_path / "captures", {"a": 0, "b": 100}, Task.CLASSIFICATION)
    right, wrong = {"classes": [{"class": "WBC"}]}, {"objects": [{"class": "WBC", "box": [0.0, 0.0, 2.0, 2.0]}]}
    with pytest.raises(InvalidInput, match="it does not fit the task Classification"):
        keep_labels(store, [("a-0.png", right), ("b-0.png", wrong)])
    assert [each.label for each in pictures(store)] == [None, None]
    nothing: dict[str, JsonValue] = {"objects": [], "classes": []}
    assert keep_labels(store, [("a-0.png", right), ("b-0.png", nothing)]) == (1, 0), "b is not labelled yet"


def test_the_order_prefers_the_unsure_and_avoids_repetition() -> None:
    places = np.array([[0.0], [0.0], [1.0], [0.1]])
    assert k_centre(places, np.array([0.9, 0.8, 0.5, 0.5])) == [0, 2, 3, 1]
    assert sorted(k_centre(np.zeros((5, 3)), np.ones(5))) == list(range(5))


def test_captures_are_listed_and_deleted_by_hand(tmp_path: Path) -> None:
    filled(tmp_path / "captures", {"a": 0, "b": 100})
    uri = f"file://{tmp_path}/captures"
    assert len(CliRunner().invoke(command, ["list", uri]).output.splitlines()) == 2
    assert "a: deleted\nx: nothing is kept" in CliRunner().invoke(command, ["delete", uri, "a", "x"]).output
    assert len(CliRunner().invoke(command, ["list", uri]).output.splitlines()) == 1


def test_days_of_a_deleted_deployment_are_deleted_by_age(tmp_path: Path) -> None:
    now = (datetime.now(UTC) - START).total_seconds()
    store = filled(tmp_path / "captures", {"a": now - 3 * 86400, "b": now})
    uri = f"file://{tmp_path}/captures"
    assert CliRunner().invoke(command, ["expire", uri, "--older", "36h"]).output == "1 day deleted\n"
    assert [found.capture.id for found in store.all()] == ["b"]
    assert CliRunner().invoke(command, ["expire", uri, "--older", "old"]).exit_code == 2
