"""What the programs of sources have written, as the build of a pod finds it: read like any source, and not trusted."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_support import MEMBRANE, Build
from fovea_api.dataset import Recipe
from fovea_api.errors import InvalidInput
from fovea_api.run import RunInputs, RunOwner, RunSpec, RunType, run_identity
from fovea_store import StorePath
from fovea_trainer.data.formats import BATCH
from fovea_trainer.data.sources import open_source
from fovea_trainer.data.version import open_version
from fovea_trainer.fingerprint import fingerprints
from fovea_trainer.run import failure

IMAGES = 12


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the program's source, empty."""
    monkeypatch.setenv("FOVEA_GENERATED_ROOT", str(tmp_path / "generated"))
    folder = tmp_path / "generated/simulated"
    folder.mkdir(parents=True)
    return folder


def draw(folder: Path, side: int = 20) -> None:
    """Squares on noise with their boxes, as COCO."""
    images, annotations = [], []
    for number in range(IMAGES):
        picture = np.random.default_rng(number).integers(0, 100, (64, 64, 3), np.uint8)
        cv2.rectangle(picture, (9, 9), (9 + side, 9 + side), (255, 255, 255), -1)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        annotations.append({"id": number, "image_id": number, "category_id": 3, "bbox": [9, 9, side, side]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "square"}]}
    (folder / "annotations.json").write_text(json.dumps(content))


def spec(format: str = "COCO", *others: dict[str, Any], **fields: Any) -> dict[str, Any]:
    source = {"name": "simulated", "generator": {"image": "simulator:1.4", "format": format}}
    return {"task": "Detection", "quality": {"nearDuplicates": "Ignore"}, "sources": [source, *others], **fields}


def test_it_is_a_source_like_any_other(build: Build, voc: Path, written: Path, tmp_path: Path) -> None:
    draw(written)
    lab = {"name": "lab", "uri": f"file://{voc}", "format": "PascalVOC"}
    result = build(spec("COCO", lab))
    version = open_version(result.artifact, tmp_path / "cache")
    assert {each.name: (each.uri, str(each.format), each.images) for each in version.manifest.provenance} == {
        "simulated": ("simulator:1.4", "COCO", IMAGES),
        "lab": (f"file://{voc}", "PascalVOC", 24),
    }
    assert "simulator:1.4" in StorePath.parse(result.report).read_text()
    drawn = [one for split in version.manifest.splits for one in version.split(split) if one.source == "simulated"]
    assert [one.boxes.tolist() for one in drawn] == [[[9, 9, 29, 29]]] * IMAGES


def test_the_same_again_makes_no_new_version(build: Build, written: Path) -> None:
    draw(written)
    first = build(spec())
    shutil.rmtree(written)
    written.mkdir()
    draw(written)
    again = build(spec())
    assert (again.digest, again.adopted) == (first.digest, True)
    draw(written, side=24)
    assert build(spec()).digest != first.digest


def test_no_result_of_another_output_is_adopted(written: Path, tmp_path: Path) -> None:
    recipe, owner = Recipe.model_validate(spec()), RunOwner(kind="Dataset", name="d")
    identity = run_identity(RunType.DATASET_BUILD, owner, recipe, RunInputs())
    frozen, store = recipe.to_dict(), str(tmp_path)
    run = RunSpec(type=RunType.DATASET_BUILD, owner=owner, identity=identity, recipe=frozen, store=store)
    draw(written)
    before = fingerprints(run)
    draw(written)
    assert fingerprints(run) == before
    draw(written, side=24)
    assert fingerprints(run) != before


def test_what_belongs_to_masks_counts_for_a_programs_too(build: Build, written: Path) -> None:
    shutil.copytree(MEMBRANE, written, dirs_exist_ok=True)
    fields = spec("Masks", task="SemanticSegmentation", classes=["cell", "membrane"])
    fields["sources"][0]["maskValues"] = {"cell": 255, "membrane": 0}
    result = build(fields)
    assert [each.name for each in result.summary.classes if each.images] == ["cell", "membrane"]


def test_a_class_with_half_a_letter_has_a_name_that_can_be_written(build: Build, written: Path) -> None:
    """JSON can say what no UTF-8 can, and what programs cut out of a text is such."""
    draw(written)
    file = written / "annotations.json"
    file.write_text(file.read_text().replace("square", r"squ\ud83dare"))
    assert [each.name for each in build(spec()).summary.classes] == ["squ?are"]


FAULTS: dict[str, tuple[dict[str, str], str, str]] = {
    "nothing": ({}, "COCO", "the program has written nothing .*FOVEA_OUTPUT"),
    "hidden files alone": ({".cache": "x"}, "COCO", "the program has written nothing"),
    "another format": ({"labels.csv": "a,b"}, "COCO", "cannot be read: .*there is no JSON file"),
    "a broken file": ({"a.json": "{"}, "COCO", "cannot be read: a.json:1: the JSON is broken"),
    "no images": ({"a.xml": "<a/>"}, "YOLO", "cannot be read: .*there are no images"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_read_names_the_program_and_what_to_do(name: str, build: Build, written: Path) -> None:
    files, format, words = FAULTS[name]
    for file, content in files.items():
        (written / file).write_text(content)
    with pytest.raises(InvalidInput, match=words) as error:
        build(spec(format))
    assert (error.value.location, bool(error.value.remedy)) == ("spec.sources[simulated].generator", True)


@pytest.mark.parametrize("link", ["labels.json", "folder"])
def test_no_link_leads_out_of_its_folder(link: str, build: Build, written: Path, tmp_path: Path) -> None:
    """A program that is not trusted would read the build's Secrets by its hands."""
    draw(written)
    beside = tmp_path / "generated/simulated-too"  # begins as the folder does
    beside.mkdir()
    (beside / "a.json").write_text("{}")
    (written / link).symlink_to(beside if link == "folder" else beside / "a.json")
    with pytest.raises(InvalidInput, match=f"a link that leads out of its folder: {link}"):
        build(spec())
    (written / link).unlink()
    (written / "12.png").symlink_to("0.png")
    assert build(spec()).summary.images == IMAGES


def test_a_link_by_a_name_that_is_no_text_is_reported(written: Path) -> None:
    os.symlink("/etc/passwd", bytes(written) + b"/\xff.png")
    with pytest.raises(InvalidInput, match="out of its folder") as refused:
        open_source(Recipe.model_validate(spec()).sources[0], written.parent / "work")
    reported = failure(refused.value)
    assert reported.error is not None
    assert "out of its folder: ?.png" in reported.error.message


def test_links_are_found_however_deep_they_lie(written: Path) -> None:
    folders = [written / "/".join("a" * depth) for depth in range(1, 1200)]
    for folder in folders:
        folder.mkdir()
    link = folders[-1] / "labels.json"
    link.symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match=r"out of its folder: a/a/.*/labels\.json"):
        open_source(Recipe.model_validate(spec()).sources[0], written.parent / "work")
    link.unlink()
    for folder in reversed(folders):  # what deletes temporary folders goes less deep
        folder.rmdir()


def test_what_is_no_file_is_not_opened(build: Build, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe would be waited for without end; a socket says at once that it cannot be opened."""
    draw(written)
    monkeypatch.chdir(written)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("listener.json")
        marker = {"annotations": {"file": "listener.json", "sha256": ""}}
        (written / BATCH).write_text(json.dumps(marker))
        assert build(spec()).summary.images == IMAGES


def test_by_hand_no_program_is_run(build: Build) -> None:
    with pytest.raises(InvalidInput, match="--source simulated=FOLDER") as error:
        build(spec())
    assert error.value.location == "spec.sources[simulated].generator"
