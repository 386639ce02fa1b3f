"""`fovea init` writes a manifest that trains, of every format, and says what it saw; `--set` changes it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from cli_support import Fovea
from fovea_api.dataset import Dataset
from fovea_api.trainingjob import TrainingJob
from fovea_trainer.init import object_name
from fovea_trainer.manifest import Manifest

CASES = Path(__file__).parents[1] / "data" / "cases"


def test_a_folder_of_classes_becomes_a_manifest_that_trains(
    fovea: Fovea, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My Photos").symlink_to(pictures)
    done = fovea("init", "My Photos", "--name", "photos")
    assert done.exit_code == 0, done.output
    assert "read as ImageFolder for Classification" in done.stdout
    assert "There are 32 images: figures of the test split will be rough." in done.stdout
    manifest = Manifest.read(tmp_path / "photos.yaml")
    dataset, job = manifest.find(Dataset, None).spec, manifest.find(TrainingJob, None).spec
    assert (dataset.classes, dataset.splits.method) == (("blue", "red"), "FromSource")
    assert job.input.size is None, "the preset finds it"
    usual = re.search("^  # (training: .*)$", (tmp_path / "photos.yaml").read_text(), flags=re.MULTILINE)
    assert usual is not None
    assert yaml.safe_load(usual[1]) == {
        "training": {"epochs": 300, "batchSize": 64, "optimizer": {"learningRate": 0.001}}
    }, "300 steps at least, of which 16 images make one an epoch"
    again = fovea("init", "My Photos", "--name", "photos")
    assert (again.exit_code, "the file exists (give another --file" in again.stderr) == (1, True)
    assert fovea("init", "My Photos", "--name", "photos", "--force").exit_code == 0
    built = fovea("dataset", "build", "-f", "photos.yaml", "-o", "json")
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["dataset"]["splits"] == {"train": 16, "validation": 8, "test": 8}


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir() if path.name[0].isdigit()))
def test_what_is_written_is_a_manifest_whatever_was_found(fovea: Fovea, case: str, tmp_path: Path) -> None:
    """All cases of all formats; some of them are refused, and then nothing is written."""
    files = [path for path in (CASES / case).iterdir() if path.is_dir()]
    if not files:
        pytest.skip("the case is an archive of its own kind")
    done = fovea("init", files[0], "--file", tmp_path / "x.yaml", "-o", "json")
    if done.exit_code == 0:
        said, manifest = json.loads(done.stdout), Manifest.read(tmp_path / "x.yaml")
        assert [each["name"] for each in said["summary"]["classes"]] == list(manifest.find(Dataset, None).spec.classes)
        assert manifest.find(TrainingJob, None).spec.model.architecture == said["architecture"]
    else:
        assert (done.exit_code, (tmp_path / "x.yaml").exists()) == (1, False)
        assert done.stderr.startswith("fovea: ")


def test_the_commands_of_a_manifest_run_as_they_are_written(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    """Whatever the folder and the file are called; what is pushed is a folder, also where the images are an archive."""
    shutil.copytree(pictures, tmp_path / "Meine Bilder")
    shutil.make_archive(str(tmp_path / "packed"), "zip", pictures)
    for images, pushed in (("Meine Bilder", f"'{tmp_path}/Meine Bilder'"), ("packed.zip", "FOLDER")):
        file = tmp_path / "a file.yaml"
        done = fovea("init", tmp_path / images, "--name", "x", "--file", file, "--force")
        assert done.exit_code == 0, done.output
        assert f"next      fovea train -f '{file}'\n" in done.stdout
        text = file.read_text()
        assert f"fovea train -f '{file}'\n" in text
        assert f"fovea push {pushed} pvc://datasets/x" in text
        assert f"kubectl apply -f '{file}'\n" in text


def test_names_that_yaml_would_read_as_something_else(fovea: Fovea, tmp_path: Path) -> None:
    names = ("no", "3", "a: b", "null", "mit, Komma", "#1", "'quoted'")
    random = np.random.default_rng(0)
    for name in names:
        for index in range(3):
            file = tmp_path / "shapes" / name / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(".png", random.integers(0, 255, (40, 40, 3), np.uint8))[1].tobytes())
    done = fovea("init", tmp_path / "shapes", "--file", tmp_path / "x.yaml")
    assert done.exit_code == 0, done.output
    assert set(Manifest.read(tmp_path / "x.yaml").find(Dataset, None).spec.classes) == set(names)
    assert "Classes in fewer than 10 images can hardly be learned" in done.stdout


def test_what_is_no_dataset_is_refused_in_words(fovea: Fovea, tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.md").write_text("nothing")
    for words, told in (
        ((tmp_path / "empty",), "the files look like no format that can be read: 0 images, and no labels"),
        ((pictures, "--name", "My Photos"), "--name: name: metadata.name must be a DNS-1035 label"),
        ((pictures, "--architecture", "unett"), "there is no architecture 'unett'"),
        ((pictures, "--architecture", "fasterrcnn"), "fasterrcnn is for Detection, and the folder is read for"),
        ((pictures, "--task", "Detection"), "none of 32 images shows an object"),
    ):
        done = fovea("init", *words, "--file", tmp_path / "x.yaml")
        assert (done.exit_code, told in done.stderr) == (1, True), done.output
        assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My Photos", "my-photos"), ("2024_scans", "images-2024-scans"), ("cats.zip", "cats"), ("Ünïcode", "n-code")],
)
def test_a_folders_name_as_kubernetes_takes_it(folder: str, name: str) -> None:
    assert object_name(Path("/x") / folder) == name


def test_set_changes_the_training_job_alone(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    assert fovea("init", pictures, "--file", file, "--name", "x").exit_code == 0
    given = ("training.epochs=20", "spec.training.optimizer.learningRate=1e-4", "input.size={width: 64, height: 32}")
    manifest = Manifest.read(file, TrainingJob, given)
    job = manifest.find(TrainingJob, None).spec
    assert (job.training.epochs, job.training.optimizer.learning_rate) == (20, 1e-4)
    assert job.input.size is not None
    assert (job.input.size.width, job.input.size.height) == (64, 32)
    assert manifest.find(Dataset, None) == Manifest.read(file).find(Dataset, None)
    assert Manifest.read(file, TrainingJob, given, "another") == Manifest.read(file)
    for setting, told in (
        ("training.epoch=20", "spec.training.epoch: Extra inputs are not permitted; did you mean epochs?"),
        ("training.epochs=many", "spec.training.epochs: "),
        ("training.epochs", "'training.epochs' is not FIELD=VALUE"),
        ("datasetRef.name.x=1", "spec.datasetRef.name has no field 'x'"),
        ("training.epochs=[", "the value of training.epochs is no YAML"),
    ):
        done = fovea("train", "-f", file, "--store", tmp_path / "store", "--set", setting)
        assert (done.exit_code, told in done.stderr) == (1, True), done.output
    assert not (tmp_path / "store").exists()


def test_the_manifest_reads_as_it_is_written(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    fovea("init", pictures, "--file", file, "--name", "x", "--uri", "s3://lab/photos")
    text = file.read_text()
    assert f"#   a cluster:  fovea push {pictures} s3://lab/photos" in text
    assert f"#   by hand:    fovea train -f {file}" in text
    dataset, job = yaml.safe_load_all(text)
    assert dataset["spec"]["sources"] == [{"name": "folder", "uri": "s3://lab/photos", "format": "ImageFolder"}]
    assert job["spec"] == {"datasetRef": {"name": "x"}, "model": {"architecture": "efficientnet-lite0"}}
