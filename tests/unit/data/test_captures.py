"""From captures in a folder to a version: labels, groups, and who withdrew."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from dataset_support import Build, read_all
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput
from fovea_cli.captures import command
from fovea_serving.captures import CaptureStore, Label
from fovea_serving.captures.exchange import pictures
from fovea_serving.pipeline.run_lengths import run_lengths
from fovea_trainer.data.version import open_version

from tests.unit.serving.test_capture_exchange import filled

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
BURSTS = {f"c{burst}{index}": 1000.0 * burst + index for burst in range(8) for index in range(4)}
"""Eight bursts of four requests, by the second in which they came."""


def label(store: CaptureStore, names: set[str], content: dict[str, object]) -> None:
    for found in list(store.all()):
        if found.capture.id in names:
            store.label(found, Label.model_validate({"time": NOW, "source": "import", "images": (content,)}))


def captured(folder: Path) -> CaptureStore:
    """All captures of the bursts are labelled but one."""
    store = filled(folder, BURSTS)
    label(store, set(BURSTS) - {"c01"}, {"objects": [{"class": "WBC", "box": [1.0, 2.0, 30.0, 20.0]}]})
    return store


def spec(folder: Path, **fields: object) -> dict[str, object]:
    source = {"name": "production", "uri": f"file://{folder}", "format": "Captures"}
    ratios = {"train": 0.5, "validation": 0.25, "test": 0.25}
    splits = {"ratios": ratios, "keepNearDuplicatesTogether": False}
    return {"task": "Detection", "sources": [source], "splits": splits, **fields}


def test_labelled_captures_become_a_version_and_a_burst_stays_in_one_split(build: Build, tmp_path: Path) -> None:
    captured(tmp_path / "captures")
    result = build(spec(tmp_path / "captures"))
    assert (result.summary.images, [each.name for each in result.summary.classes]) == (31, ["WBC"])
    assert not result.summary.findings, "an image that waits for its label is no finding"
    version = open_version(result.artifact, tmp_path / "cache")
    groups: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for sample in version.split(split):
            groups.setdefault(sample.name[:2], set()).add(split)
            assert sample.boxes.tolist() == [[1.0, 2.0, 30.0, 20.0]]
    assert len(groups) == 8
    assert all(len(splits) == 1 for splits in groups.values())
    assert len(set.union(*groups.values())) == 3


def test_who_withdrew_is_in_no_version_and_no_longer_among_the_captures(build: Build, tmp_path: Path) -> None:
    store = captured(tmp_path / "captures")
    first, second, other = (pictures(store)[index] for index in (0, 5, 7))
    store.delete(pictures(store)[4].found.capture.id)  # the first of its burst, after which an export names the group
    digest = hashlib.sha256(store.read_image(first.found, 0)).hexdigest()
    listed = tmp_path / "withdrawn.txt"
    listed.write_text(f"sha256:{digest}  # an objection\n{second.file}\n")
    result = build(spec(tmp_path / "captures", exclude={"uri": f"file://{listed}"}))
    assert result.summary.images == 28
    uri = f"file://{tmp_path}/captures"
    lost = store.root / other.found.folder / str(other.found.capture.images[0].file)
    lost.delete()  # as by a deletion that was interrupted
    done = CliRunner().invoke(command, ["delete", uri, "--exclude", str(listed)])
    assert done.output == "".join(f"{each.found.capture.id}: deleted\n" for each in (first, second))
    assert {found.capture.id for found in store.all()} == set(BURSTS) - {"c00", "c10", "c11"}
    listed.write_text(f"{other.name}\n")
    assert CliRunner().invoke(command, ["delete", uri, "--exclude", str(listed)]).output == "c13: deleted\n"


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_folder_without_captures_is_an_empty_source(build: Build, tmp_path: Path, voc: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    fields = spec(tmp_path / folder)
    with pytest.raises(InvalidInput, match="no image with a usable label is left"):
        build(fields)
    lab = {"name": "lab", "uri": f"file://{voc}", "format": "PascalVOC"}
    assert build({**fields, "sources": [lab, *fields["sources"]]}).summary.images == 24  # type: ignore[misc]


def test_labels_of_other_tasks_are_read_and_broken_ones_are_found(tmp_path: Path) -> None:
    store = filled(tmp_path / "classes", {"a": 0, "b": 50}, Task.CLASSIFICATION)
    label(store, {"a"}, {"classes": [{"class": "WBC"}]})
    label(store, {"b"}, {"classes": [{"class": 3}]})
    first, second = read_all(Format.CAPTURES, tmp_path / "classes", Task.CLASSIFICATION)
    assert (first[1].name, first[0].group) == ("WBC", "c0-20261126T100000")
    assert not second[1].complete
    assert len(second[1].findings) == 1
    first, second = read_all(Format.CAPTURES, tmp_path / "classes", Task.DETECTION)
    assert not first[1].complete, "a class says nothing about objects, not that there are none"
    assert [one.message for one in first[1].findings] == ["a label of Classification says nothing about Detection"]
    mask = np.zeros((40, 60), bool)
    mask[3:9, 5:50] = True
    store = filled(tmp_path / "masks", {"a": 0}, Task.SEMANTIC_SEGMENTATION)
    label(store, {"a"}, {"classes": [{"class": "membrane", "mask": run_lengths(mask)}]})
    ((_, labels),) = read_all(Format.CAPTURES, tmp_path / "masks", Task.SEMANTIC_SEGMENTATION)
    (region,) = labels.regions
    assert (region.name, region.size, sum(region.runs[1::2])) == ("membrane", (40, 60), int(mask.sum()))


BROKEN = {
    "a mask that is none": (Task.DETECTION, {"objects": [{"class": "WBC", "box": [1.0, 2.0, 30.0, 20.0], "mask": 7}]}),
    "two classes": (Task.CLASSIFICATION, {"classes": [{"class": "WBC"}, {"class": "RBC"}]}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_label_that_cannot_be_taken_costs_its_own_image_only(case: str, tmp_path: Path) -> None:
    task, content = BROKEN[case]
    store = filled(tmp_path, {"a": 0, "b": 50}, task)
    label(store, {"a"}, content)
    label(store, {"b"}, {name: parts[:1] for name, parts in BROKEN["two classes"][1].items()} | {"objects": []})
    (broken, first), (_, second) = read_all(Format.CAPTURES, tmp_path, task)
    assert ([one.place for one in first.findings], first.boxes, first.name) == (["2026-11-26/a-0.png"], (), None)
    assert (broken.name, second.findings, second.complete) == ("a-0.png", (), True)


def test_the_class_is_the_most_probable(tmp_path: Path) -> None:
    store = filled(tmp_path, {"a": 0}, Task.CLASSIFICATION)
    label(store, {"a"}, {"classes": [{"class": "RBC", "score": 0.1}, {"class": "WBC", "score": 0.9}]})
    ((_, labels),) = read_all(Format.CAPTURES, tmp_path, Task.CLASSIFICATION)
    assert labels.name == "WBC"
