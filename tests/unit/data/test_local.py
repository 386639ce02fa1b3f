"""A Dataset built by hand, again and again: what a person does who adds images and gives the command anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from dataset_support import BCCD, Listener
from fovea_api.run import RunResult
from fovea_trainer.data.version import open_version
from fovea_trainer.local import build_manifest


class ByHand:
    """`fovea dataset build -f` on a folder of images; after each call `built` says whether sources were read."""

    def __init__(self, folder: Path, voc: Path) -> None:
        self.folder, self.voc, self.built = folder, voc, False

    def build(self, **splits: object) -> RunResult:
        manifest = {
            "apiVersion": "fovea.dev/v1alpha1",
            "kind": "Dataset",
            "metadata": {"name": "cells", "annotations": {"local.fovea.dev/lab": "voc"}},
            "spec": {
                "task": "Detection",
                "sources": [{"name": "lab", "uri": "pvc://datasets/voc", "format": "PascalVOC"}],
                "splits": splits,
                "exclude": {"uri": f"file://{self.folder}/withdrawn.txt"},
            },
        }
        (self.folder / "dataset.yaml").write_text(yaml.safe_dump(manifest))
        listener = Listener()
        result = build_manifest(self.folder / "dataset.yaml", str(self.folder / "store"), reporter=listener)
        self.built = listener.built
        return result

    def add(self, numbers: range) -> None:
        for number in numbers:
            for file in BCCD.rglob(f"BloodImage_{number:05}.*"):
                shutil.copy(file, self.voc / file.parent.name)

    def splits(self, result: RunResult) -> dict[str, str]:
        assert result.artifact is not None
        version = open_version(result.artifact, self.folder / "cache")
        return {sample.name: split for split in version.manifest.splits for sample in version.split(split)}


@pytest.fixture
def by_hand(tmp_path: Path, voc: Path) -> ByHand:
    (tmp_path / "withdrawn.txt").write_text("")
    return ByHand(tmp_path, voc)


def test_added_images_move_no_other_and_the_same_input_is_built_once(by_hand: ByHand) -> None:
    first = by_hand.build()
    before = by_hand.splits(first)
    by_hand.add(range(30, 60))
    second = by_hand.build()
    after = by_hand.splits(second)
    assert by_hand.built
    assert len(after) > len(before) + 20
    assert {name: after[name] for name in before} == before
    third = by_hand.build()
    assert not by_hand.built
    assert third == second
    by_hand.add(range(60, 70))
    fourth = by_hand.build()
    assert {name: by_hand.splits(fourth)[name] for name in after} == after
    assert by_hand.build() == fourth


def test_a_file_that_was_written_is_read_again_and_the_same_content_is_the_same_version(by_hand: ByHand) -> None:
    first = by_hand.build()
    label = by_hand.voc / "Annotations/BloodImage_00001.xml"
    label.write_text(label.read_text())
    second = by_hand.build()
    assert by_hand.built
    assert second.digest == first.digest
    assert by_hand.build() == second
    assert not by_hand.built
    label.write_text(label.read_text().replace("WBC", "RBC"))
    assert by_hand.build().digest != first.digest
    (by_hand.folder / "withdrawn.txt").write_text("JPEGImages/BloodImage_00001.jpg\n")
    assert "JPEGImages/BloodImage_00001.jpg" not in by_hand.splits(by_hand.build())


def test_an_edited_recipe_keeps_the_splits_unless_it_says_otherwise(by_hand: ByHand) -> None:
    before = by_hand.splits(by_hand.build(seed=1))
    assert by_hand.splits(by_hand.build(seed=2)) == before
    fresh = by_hand.build(seed=2, keepAssignments=False)
    assert by_hand.splits(fresh) != before
    by_hand.build(seed=1)
    assert by_hand.build(seed=2, keepAssignments=False) == fresh, "without a parent, an earlier result is found again"


def test_a_version_that_was_deleted_is_built_again(by_hand: ByHand) -> None:
    first = by_hand.build()
    assert first.artifact is not None
    shutil.rmtree(first.artifact)
    assert by_hand.build().digest == first.digest
    assert by_hand.built
