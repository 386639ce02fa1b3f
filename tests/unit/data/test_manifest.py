"""A manifest by hand: where its sources lie, and all that is wrong with it at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dataset_support import draw
from fovea_api.dataset import Dataset
from fovea_api.errors import InvalidInput, InvalidManifest
from fovea_trainer.local import check_manifest
from fovea_trainer.manifest import Manifest

SOURCE = {"name": "lab", "uri": "pvc://data/x", "format": "ImageFolder"}


def dataset(annotations: dict[str, str] | None = None, **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "fovea.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "d", "annotations": annotations or {}},
        "spec": {"task": "Classification", "sources": [SOURCE], **spec},
    }


def written(folder: Path, *documents: object) -> Path:
    file = folder / "manifest.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    return file


def refusal(folder: Path, *documents: object) -> str:
    with pytest.raises(InvalidManifest) as error:
        Manifest.read(written(folder, *documents))
    return str(error.value)


def pets(root: Path, name: str = "0.jpg") -> Path:
    for number, pet in enumerate(("cat", "dog") * 5):
        draw(root / pet / f"{number}-{name}", seed=number)
    return root


# --- Where sources lie ---

FOLDERS = [
    "My Drive (1)",
    "100% #1?",
    "Übung",
    "U\u0308bung",
    "a&b;c=d",
    "it's",
    "日本",
    "a+b",
    "%20",
    "[x]",
    "x@y:z",
    "~",
]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("way", ["annotation", "uri", "file://", "pvc://"])
def test_any_folder_can_be_named(folder: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets(tmp_path / "claims/data" / folder, f"{folder}.jpg")
    monkeypatch.setenv("FOVEA_PVC_ROOT", str(tmp_path / "claims"))
    uri = {
        "annotation": "pvc://other/x",
        "uri": f"./claims/data/{folder}",
        "file://": f"file://{tmp_path}/claims/data/{folder}",
        "pvc://": f"pvc://data/{folder}",
    }[way]
    annotations = {"local.fovea.dev/lab": f"claims/data/{folder}"} if way == "annotation" else None
    _, result = check_manifest(written(tmp_path, dataset(annotations, sources=[{**SOURCE, "uri": uri}])))
    assert result.refusal is None
    assert result.summary is not None
    assert {each.name: each.images for each in result.summary.classes} == {"cat": 5, "dog": 5}


def test_a_path_is_relative_to_the_manifest_not_to_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets(tmp_path / "data")
    (tmp_path / "manifests").mkdir()
    monkeypatch.chdir("/")
    manifest = Manifest.read(written(tmp_path / "manifests", dataset(sources=[{**SOURCE, "uri": "../data"}])))
    local = manifest.local(manifest.find(Dataset, None), {})
    assert local.spec.sources[0].uri == f"file://{tmp_path}/data"
    assert check_manifest(tmp_path / "manifests/manifest.yaml")[1].refusal is None


def test_a_host_is_refused_with_what_was_meant(tmp_path: Path) -> None:
    pets(tmp_path / "data")
    file = written(tmp_path, dataset(sources=[{**SOURCE, "uri": "file://data/pets"}]))
    with pytest.raises(InvalidInput, match=r"file://data names a host.*write file:///data/pets.*\./data/pets"):
        check_manifest(file)


def test_links_around_in_a_circle_and_names_that_are_no_text(tmp_path: Path) -> None:
    root = pets(tmp_path / "data")
    (root / "cat/up").symlink_to("..")
    (root / "linked").symlink_to(pets(tmp_path / "elsewhere") / "cat")
    Path(str(root / "dog").encode().decode() + "/\udcff.jpg").write_bytes((root / "dog/1-0.jpg").read_bytes())
    _, result = check_manifest(written(tmp_path, dataset(sources=[{**SOURCE, "uri": "./data"}], quality={
        "maxFaultyImages": 0.5, "nearDuplicates": "Ignore"})))  # fmt: skip
    assert [tally.count for tally in result.findings if tally.kind == "MissingImage"] == [1]
    assert [tally.count for tally in result.findings if tally.kind == "ExactDuplicate"] == [5], "linked is cat's image"


# --- What is wrong ---

WRONG = {
    "a field": (dataset(splits={"methd": "Ratio"}), "spec.splits.methd", "did you mean method?"),
    "a value": (dataset(sources=[{**SOURCE, "format": "Yolo"}]), "spec.sources[0].format", "did you mean YOLO?"),
    "a value of another word": (dataset(task="Detecton"), "spec.task", "did you mean Detection?"),
    "a kind": ({**dataset(), "kind": "Datset"}, "there is no kind Datset", "did you mean Dataset?"),
    "an annotation": (dataset({"local.fovea.dev/labs": "x"}), "metadata.annotations[local.fovea.dev/labs]",
                      "did you mean local.fovea.dev/lab?"),
    "an annotation's domain": (dataset({"local.fova.dev/lab": "x"}), "metadata.annotations[local.fova.dev/lab]",
                               "did you mean local.fovea.dev/lab?"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_near_names(case: str, tmp_path: Path) -> None:
    document, place, meant = WRONG[case]
    message = refusal(tmp_path, document)
    assert place in message
    assert meant in message


def test_all_that_is_wrong_is_reported_at_once(tmp_path: Path) -> None:
    bad = [{**SOURCE, "format": "yolo"}, {**SOURCE, "name": "two", "sha265": "x", "maskValues": {"a": 999}}]
    job = {
        "apiVersion": "fovea.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "t"},
        "spec": {"datasetRef": {"nam": "d"}},
    }
    message = refusal(tmp_path, dataset(sources=bad, task="Guess"), job)
    for place in ("spec.task", "[0].format", "[1].sha265", "[1].maskValues", "spec.datasetRef.nam", "spec.model"):
        assert place in message
    assert len(message.splitlines()) >= 6


def test_annotations_and_kinds_of_others_are_left_alone(tmp_path: Path) -> None:
    others = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    manifest = Manifest.read(written(tmp_path, dataset({"example.com/lab": "x", "note": "y"}), others))
    assert len(manifest.objects) == 1


@pytest.mark.parametrize("text", ["a: [", "\x00", "- 1\n- 2", "", "kind: Dataset", "kind: Dataset\nspec: 3", "&a [*a]"])
def test_no_manifest_ends_in_a_traceback(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text(text)
    with pytest.raises(InvalidManifest):
        check_manifest(tmp_path / "manifest.yaml")
