"""Labels that a served model predicts beforehand: real frames, and a small real bundle that the serving code runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from dataset_support import detection
from fovea_api.bundle import BundleManifest
from fovea_api.common import Task
from fovea_api.dataset import Recipe
from fovea_api.errors import InvalidInput
from fovea_api.run import BundleInput, RunResult, RunSpec, run_name
from fovea_serving.bundle import bundle_digest
from fovea_store import StorePath
from fovea_trainer.data.build import BuildResult, build_dataset
from fovea_trainer.data.prelabel import exported
from fovea_trainer.data.version import open_version
from fovea_trainer.local import build_manifest
from fovea_trainer.results import write_result
from test_videos import contents, film, smears

from tests.unit.serving.conftest import write_bundle, write_detector

CLASSES = ["RBC", "WBC", "Platelets"]
Labelled = Callable[..., BuildResult]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that sees an RBC of about 0.5 to 0.6 in each smear, and Platelets of about 0.35 to 0.45."""
    root = tmp_path_factory.mktemp("model")
    folder = write_bundle(root, lambda to: write_detector(to / "model.onnx"), Task.DETECTION, classes=tuple(CLASSES))
    manifest = BundleManifest.model_validate(yaml.safe_load((folder / "bundle.yaml").read_text()))
    low = manifest.postprocessing.model_copy(update={"score_threshold": 0.3, "confidence_threshold": 0.3})
    manifest = manifest.model_copy(update={"postprocessing": low})
    (folder / "bundle.yaml").write_text(yaml.safe_dump(manifest.to_dict(), sort_keys=False))
    return folder.rename(root / bundle_digest(manifest))


@pytest.fixture
def labelled(tmp_path: Path, model: Path) -> Labelled:
    """Builds a version, with the model or without."""

    def run(spec: dict[str, Any], served: bool = True) -> BuildResult:
        given = BundleInput.at(str(model)) if served else None
        work = tmp_path / "work"
        shutil.rmtree(work, ignore_errors=True)
        recipe = Recipe.model_validate(spec)
        return build_dataset(recipe, name="d", store_root=str(tmp_path / "store"), model=given, work_dir=work)

    return run


def wanted(tmp_path: Path, voc: Path, use: str = "AfterReview", form: str = "COCO", **more: Any) -> dict[str, Any]:
    """A Dataset of labelled smears, and four frames of a video of others."""
    if not (tmp_path / "in").exists():
        film(tmp_path / "in/a.avi", smears(44)[24:44])
    prelabel = {
        "modelDeploymentRef": {"name": "cells"},
        "minConfidence": 0.5,
        "export": {"uri": f"file://{tmp_path}/todo", "format": form},
        "use": use,
    }
    spec = detection(voc, classes=CLASSES, prelabel=prelabel, **more)
    camera = {"name": "camera", "video": {"uri": f"file://{tmp_path}/in", "everySeconds": 0.5}}
    return {**spec, "sources": [*spec["sources"], camera]}  # type: ignore[misc]


def batches(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "todo").iterdir())


def of(result: BuildResult, kind: str) -> list[str]:
    return [f"{each.count} {each.message}" for each in result.summary.findings if each.kind == kind]


def test_frames_go_out_for_review_once_and_come_back_as_a_source(labelled: Labelled, voc: Path, tmp_path: Path) -> None:
    spec = wanted(tmp_path, voc)
    result = labelled(spec)
    assert result.digest == labelled(detection(voc, classes=CLASSES), served=False).digest
    (batch,) = batches(tmp_path)
    assert of(result, "WaitsForLabel") == [f"4 camera: a.avi/00000000.jpg: it waits for review in {batch}"]
    content = json.loads((batch / "annotations.json").read_text())
    assert [each["name"] for each in content["categories"]] == CLASSES
    times = (0, 500, 1000, 1500)
    assert [each["file_name"] for each in content["images"]] == [f"images/camera/a.avi/{time:08}.jpg" for time in times]
    assert {each["category_id"] for each in content["annotations"]} == {1}  # the Platelets are too uncertain
    assert all(0.5 <= each["score"] < 0.9 for each in content["annotations"])
    frames = contents(tmp_path / "in", tmp_path / "frames", everySeconds=0.5)
    assert [(batch / each["file_name"]).read_bytes() for each in content["images"]] == list(frames.values())

    # A person works on the file, and other things lie there: the next build touches neither.
    (batch / "annotations.json").write_text("reviewed")
    (tmp_path / "todo/notes").mkdir()
    (tmp_path / "todo/notes/.fovea-exported.json").write_text("[]")
    labelled(spec)
    assert [each.name for each in batches(tmp_path)] == sorted([batch.name, "notes"])
    assert (batch / "annotations.json").read_text() == "reviewed"

    # Three of four are reviewed, under the names of the tool; a fifth frame is new.
    reviewed = tmp_path / "reviewed"
    reviewed.mkdir()
    done = content["images"][:3]
    for number, each in enumerate(done):
        shutil.copy(batch / each["file_name"], reviewed / f"{number}.jpg")
        each["file_name"] = f"{number}.jpg"
    known = {each["id"] for each in done}
    boxes = [
        {k: v for k, v in each.items() if k != "score"} for each in content["annotations"] if each["image_id"] in known
    ]
    (reviewed / "labels.json").write_text(json.dumps(content | {"images": done, "annotations": boxes}))
    film(tmp_path / "in/b.avi", smears(50)[49:])
    spec["sources"].append({"name": "reviewed", "uri": f"file://{reviewed}", "format": "COCO"})
    result = labelled(spec)
    assert result.summary.images == 27
    assert of(result, "WaitsForLabel")[0].startswith("2 camera: a.avi/00001500.jpg")
    (new,) = {each.name for each in batches(tmp_path)} - {batch.name, "notes"}
    assert [path.name for path in (tmp_path / "todo" / new / "images").rglob("*.jpg")] == ["00000000.jpg"]
    splits = {split for split, samples in by_split(result, tmp_path).items() if samples & {"0.jpg", "1.jpg", "2.jpg"}}
    assert len(splits) == 1


def by_split(result: BuildResult, tmp_path: Path) -> dict[str, set[str]]:
    version = open_version(result.artifact, tmp_path / "cache")
    return {split: {sample.name for sample in version.split(split)} for split in version.manifest.splits}


def test_a_batch_that_was_interrupted_is_written_once_more(labelled: Labelled, voc: Path, tmp_path: Path) -> None:
    labelled(wanted(tmp_path, voc))
    (batch,) = batches(tmp_path)
    (batch / ".fovea-exported.json").unlink()
    (batch / "images/camera/a.avi/00000500.jpg").unlink()
    (batch / "annotations.json").write_text("begun")
    labelled(wanted(tmp_path, voc))
    assert batches(tmp_path) == [batch]
    assert len(exported(StorePath.parse(str(tmp_path / "todo")), "d")) == 4
    assert (batch / "images/camera/a.avi/00000500.jpg").exists()
    assert (batch / "annotations.json").read_text() == "begun"


@pytest.mark.parametrize(("form", "file"), [("CVAT", "annotations.xml"), ("LabelStudio", "tasks.json")])
def test_each_tool_gets_its_file(form: str, file: str, labelled: Labelled, voc: Path, tmp_path: Path) -> None:
    labelled(wanted(tmp_path, voc, form=form))
    (batch,) = batches(tmp_path)
    text = (batch / file).read_text()
    assert text.count("camera/a.avi/") == 4
    assert text.count("RBC") == 4
    assert "Platelets" not in text


def test_immediate_labels_are_in_train_only_and_the_report_says_so(
    labelled: Labelled, voc: Path, tmp_path: Path
) -> None:
    """One frame of the video is labelled and in test: none of its other frames may be learned from."""
    film(tmp_path / "in/a.avi", smears(44)[24:44])
    film(tmp_path / "in/b.avi", smears(64)[44:64])
    spec = wanted(tmp_path, voc, use="Immediately", splits={"method": "FromSource"})
    frames = contents(tmp_path / "in", tmp_path / "frames", everySeconds=0.5)
    tested = {"test/JPEGImages/t.jpg": frames["a.avi/00000000.jpg"]}
    for number, file in enumerate(sorted((voc / "JPEGImages").iterdir())):
        split = ("train", "validation", "test")[number % 3]
        tested[f"{split}/JPEGImages/{file.name}"] = file.read_bytes()
    root = tmp_path / "given"
    label = (voc / "Annotations/BloodImage_00001.xml").read_text()
    for name, data in tested.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        xml = root / name.replace("JPEGImages", "Annotations").replace(".jpg", ".xml")
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(label.replace("BloodImage_00001.jpg", file.name))
    spec["sources"][0] |= {"uri": f"file://{root}"}
    result = labelled(spec)
    version = open_version(result.artifact, tmp_path / "cache")
    samples = {sample.name: (split, sample) for split in version.manifest.splits for sample in version.split(split)}
    assert samples["test/JPEGImages/t.jpg"][0] == "test"
    taken = {name: split for name, (split, _) in samples.items() if ".avi" in name}
    assert taken == {f"b.avi/{time:08}.jpg": "train" for time in (0, 500, 1000, 1500)}
    sample = samples["b.avi/00000000.jpg"][1]
    assert [CLASSES[label] for label in sample.labels] == ["Platelets", "RBC"]
    assert sample.difficult.tolist() == [True, False]  # not sure enough: neither taught nor missed
    (camera,) = (each for each in version.manifest.provenance if each.name == "camera")
    assert (camera.images, camera.predicted) == (4, 4)
    assert of(result, "PredictedLabels")[0].endswith(
        "the labels of 4 images, 13.8% of the version's 29; all are in train"
    )
    assert of(result, "WaitsForLabel")[0].startswith("3 camera: a.avi/00000500.jpg: its video")
    # The others have the splits that they have alone.
    alone = labelled(spec | {"prelabel": None, "sources": spec["sources"][:1]}, served=False)
    expected = by_split(alone, tmp_path)
    assert {split: names - taken.keys() for split, names in by_split(result, tmp_path).items()} == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["RBC", "WBC"]}, "the model's classes Platelets are none of the Dataset's RBC, WBC"),
        ({"classes": [*CLASSES, "Parasite"]}, "the model does not know Parasite"),
        ({"task": "Classification"}, "the model is for Detection, and the Dataset for Classification"),
    ],
    ids=["a class too many", "a class too few", "another task"],
)
def test_a_model_that_does_not_fit_is_refused(
    change: dict[str, Any], words: str, labelled: Labelled, voc: Path, tmp_path: Path
) -> None:
    spec = wanted(tmp_path, voc, use="Immediately") | change
    with pytest.raises(InvalidInput, match=words) as refused:
        labelled(spec)
    assert refused.value.location == "spec.prelabel.modelDeploymentRef"
    assert not (tmp_path / "todo").exists()


@pytest.mark.parametrize(("form", "file"), [("COCO", "annotations.json"), ("CVAT", "annotations.xml")])
def test_a_batch_is_a_source_as_soon_as_somebody_has_reviewed_it(
    form: str, file: str, labelled: Labelled, voc: Path, tmp_path: Path
) -> None:
    """Predictions are no labels, neither as they lie there nor beside those of a person."""
    spec = wanted(tmp_path, voc, form=form)
    labelled(spec)
    (batch,) = batches(tmp_path)
    spec["sources"].append({"name": "batch", "uri": f"file://{tmp_path}/todo", "format": form})
    before = labelled(spec)
    assert before.summary.images == 24
    assert of(before, "PredictedLabels") == []
    assert of(before, "WaitsForLabel") == [f"4 camera: a.avi/00000000.jpg: it waits for review in {batch}"]

    predicted = (batch / file).read_text()
    reviewed = predicted.replace("WBC", "Platelets") if form == "CVAT" else without_scores(predicted)
    (batch / f"reviewed{Path(file).suffix}").write_text(reviewed + "\n")
    beside = labelled(spec)
    (batch / f"reviewed{Path(file).suffix}").replace(batch / file)
    within = labelled(spec)
    assert beside.summary.images == within.summary.images == 28
    assert beside.summary.annotations == within.summary.annotations == before.summary.annotations + 4
    assert of(within, "PredictedLabels") == of(beside, "PredictedLabels") == []
    assert batches(tmp_path) == [batch]


def without_scores(text: str) -> str:
    content = json.loads(text)
    boxes = [{key: value for key, value in each.items() if key != "score"} for each in content["annotations"]]
    return json.dumps(content | {"annotations": boxes})


def test_tasks_of_label_studio_wait_until_they_have_an_annotation(
    labelled: Labelled, voc: Path, tmp_path: Path
) -> None:
    spec = wanted(tmp_path, voc, form="LabelStudio")
    labelled(spec)
    (batch,) = batches(tmp_path)
    spec["sources"].append({"name": "batch", "uri": f"file://{batch}", "format": "LabelStudio"})
    assert labelled(spec).summary.images == 24
    (batch / "tasks.json").write_text((batch / "tasks.json").read_text() + "\n")
    assert labelled(spec).summary.images == 24


def test_reviewed_frames_of_a_video_stay_together_when_others_are_sampled(
    labelled: Labelled, voc: Path, tmp_path: Path
) -> None:
    spec = wanted(tmp_path, voc, splits={"ratios": {"train": 0.4, "validation": 0.3, "test": 0.3}, "seed": 3})
    film(tmp_path / "in/a.avi", smears(124)[24:124])
    labelled(spec)
    (batch,) = batches(tmp_path)
    (batch / "annotations.json").write_text(without_scores((batch / "annotations.json").read_text()))
    spec["sources"][1]["video"]["everySeconds"] = 1.5
    spec["sources"].append({"name": "batch", "uri": f"file://{batch}", "format": "COCO"})
    shutil.rmtree(tmp_path / "store")
    found = by_split(labelled(spec), tmp_path)
    frames = {split: sum("a.avi" in name for name in names) for split, names in found.items()}
    assert sorted(frames.values()) == [0, 0, 20]


def test_a_class_map_makes_a_model_fit(labelled: Labelled, voc: Path, tmp_path: Path) -> None:
    spec = wanted(tmp_path, voc) | {"classes": ["red", "WBC"], "classMap": {"RBC": "red", "Platelets": ""}}
    labelled(spec)
    content = json.loads((batches(tmp_path)[0] / "annotations.json").read_text())
    assert [each["name"] for each in content["categories"]] == ["red", "WBC"]
    assert {each["category_id"] for each in content["annotations"]} == {1}


def test_frames_alone_are_exported_and_the_message_says_where(labelled: Labelled, voc: Path, tmp_path: Path) -> None:
    spec = wanted(tmp_path, voc)
    spec["sources"] = spec["sources"][1:]
    with pytest.raises(InvalidInput, match=f"4 wait for one.*for review they lie in {tmp_path}/todo/d-"):
        labelled(spec)
    assert len(exported(StorePath.parse(str(tmp_path / "todo")), "d")) == 4


def test_what_is_wrong_with_labels_is_said_before_what_waits_for_one(labelled: Labelled, voc: Path) -> None:
    """Smears show several classes, and two have no label at all."""
    for file in sorted((voc / "Annotations").iterdir())[:2]:
        file.unlink()
    for file in sorted((voc / "Annotations").iterdir()):
        if not {"RBC", "WBC"} <= set(re.findall("<name>(.*?)</name>", file.read_text())):
            file.unlink()
            (voc / "JPEGImages" / f"{file.stem}.jpg").unlink()
    spec = detection(voc) | {"task": "Classification"}
    with pytest.raises(InvalidInput, match=r"no image with a usable label is left: .*classification wants one"):
        labelled(spec, served=False)


def test_images_that_a_format_leaves_unlabelled_are_exported_too(tmp_path: Path) -> None:
    """A classification set with an image in no class's folder."""
    from tests.unit.serving.conftest import write_model

    folder = write_bundle(tmp_path, lambda to: write_model(to / "model.onnx"), Task.CLASSIFICATION)
    for name, colour in (("red", 2), ("green", 1), ("blue", 0)):
        for number in range(4):
            pixels = np.zeros((24, 32, 3), np.uint8)
            pixels[..., colour] = 255
            pixels[number * 5 :, number * 6 :] //= 2
            file = tmp_path / "colours" / (name if number else "") / f"{name}{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), pixels)
    export = {"uri": f"file://{tmp_path}/todo", "format": "COCO"}
    spec = {
        "task": "Classification",
        "sources": [{"name": "c", "uri": f"file://{tmp_path}/colours", "format": "ImageFolder"}],
        "prelabel": {"modelDeploymentRef": {"name": "colours"}, "minConfidence": 0.4, "export": export},
        "quality": {"nearDuplicates": "Ignore", "maxFaultyImages": 1},
    }
    recipe = Recipe.model_validate(spec)
    store = str(tmp_path / "store")
    model = BundleInput.at(str(folder))
    build_dataset(recipe, name="d", store_root=store, model=model, work_dir=tmp_path / "work")
    (batch,) = batches(tmp_path)
    content = json.loads((batch / "annotations.json").read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    files = {each["id"]: Path(each["file_name"]).stem for each in content["images"]}
    assert {files[each["image_id"]]: names[each["category_id"]] for each in content["annotations"]} == {
        f"{name}0": name for name in ("red", "green", "blue")
    }


# --- By hand ---------------------------------------------------------------------------------------------------


def test_by_hand_the_model_is_what_the_deployment_of_the_file_would_serve(
    voc: Path, model: Path, tmp_path: Path
) -> None:
    """First there is none, then the bundle of a URI beside the file, then the newest eligible one of a job."""
    spec = wanted(tmp_path, voc)
    path, store = tmp_path / "all.yaml", str(tmp_path / "store")

    def build(served: dict[str, Any]) -> list[str]:
        dataset = {"metadata": {"name": "d"}, "spec": spec, "kind": "Dataset"}
        deployment = {"metadata": {"name": "cells"}, "spec": {"model": served}, "kind": "ModelDeployment"}
        documents = [each | {"apiVersion": "fovea.dev/v1alpha1"} for each in (dataset, deployment)]
        path.write_text(yaml.safe_dump_all(documents))
        result = build_manifest(path, store)
        assert result.dataset is not None
        return [each.message for each in result.dataset.findings if each.kind in ("EmptySource", "WaitsForLabel")]

    of_job = {"trainingJobRef": {"name": "cells"}}
    unlabelled = "prelabel: ModelDeployment 'cells' has no model, so nothing is labelled"
    unreviewed = "camera: a.avi/00000000.jpg: nobody has labelled the image"
    assert build(of_job) == [unlabelled, unreviewed]
    assert not (tmp_path / "todo").exists()
    trained(store, model, 0.4)
    assert build(of_job) == [unlabelled, unreviewed], "it misses its criterion"
    trained(store, model, 0.9)
    (waits,) = build(of_job)
    assert waits.startswith("camera: a.avi/00000000.jpg: it waits for review in ")
    (tmp_path / "other").mkdir()
    spec["prelabel"]["export"]["uri"] = f"file://{tmp_path}/other"
    shutil.copytree(model, tmp_path / model.name)
    (waits,) = build({"uri": f"./{model.name}"})
    assert waits.startswith(f"camera: a.avi/00000000.jpg: it waits for review in {tmp_path}/other/d-")


def trained(store: str, model: Path, quality: float) -> None:
    """A result of the TrainingJob in the store, as a training leaves it."""
    bundle = BundleInput.at(str(model))
    assert bundle is not None
    identity = f"sha256-{round(quality * 10):064}"
    spec = RunSpec.model_validate(
        {
            "type": "Training",
            "owner": {"kind": "TrainingJob", "name": "cells"},
            "identity": identity,
            "recipe": {},
            "store": store,
            "successCriteria": [{"metric": "test/mAP", "min": 0.5}],
        }
    )
    result = RunResult(
        completed_at=datetime(2026, 11, 27, tzinfo=UTC),
        artifact=bundle.artifact,
        digest=bundle.digest,
        metrics={"test/mAP": quality},
    )
    write_result(spec, run_name(identity), {}, result)
