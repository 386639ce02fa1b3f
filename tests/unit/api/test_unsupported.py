"""What the API knows and this version cannot do is refused before any work, with its field."""

from __future__ import annotations

from typing import Any

import pytest
from fovea_api import dataset
from fovea_api.common import Task
from fovea_api.dataset import SUPPORTED_FORMATS, Dataset, empty_sources

LAB = {"name": "lab", "uri": "s3://b/lab", "format": "COCO"}
CAPTURES = {
    "name": "production",
    "captures": {"modelDeploymentRef": {"name": "cells"}, "labels": {"uri": "s3://b/labels", "format": "CVAT"}},
}
PRELABEL = {"modelDeploymentRef": {"name": "cells"}, "use": "Immediately"}


def recipe(*sources: dict[str, Any], task: str = "Detection", **fields: Any) -> dataset.Recipe:
    return dataset.Recipe.model_validate({"task": task, "sources": sources, **fields})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"video": {"uri": "https://example.com/a.mp4"}}, "nothing is downloaded here"),
        (
            {"video": {"uri": "pvc://c/a.mp4"}, "secretRef": {"name": "keys"}},
            "has an effect for s3:// and rtsp:// only",
        ),
        ({"video": {"uri": "s3://b/a.mp4"}, "secretRef": {"name": "keys"}}, ""),
        ({"video": {"uri": "rtsp://camera:8554/user=x@y?a=b"}, "secretRef": {"name": "keys"}}, ""),
        ({"video": {"uri": "rtsp://admin:secret@camera/s"}}, "belong in the Secret of secretRef"),
        ({"video": {"uri": "pvc://c/a.mp4", "recordDuration": "5m"}}, "has an effect for rtsp:// only"),
        ({"video": {"uri": "rtsp://camera/s", "recordDuration": "0s"}}, "is from 1s to 24h"),
        ({"video": {"uri": "rtsp://camera/s", "recordDuration": "24h1s"}}, "is from 1s to 24h"),
        ({"video": {"uri": "rtsp:///s"}}, "should match pattern"),
        ({"video": {"uri": "rtsps://camera/s"}}, "should match pattern"),
    ],
    ids=[
        *(
            "the web",
            "a secret of a claim",
            "a secret of a bucket",
            "a secret of a stream",
            "a password in the address",
        ),
        *("a duration of files", "no duration", "a day and more", "no host", "encrypted"),
    ],
)
def test_videos_are_files_in_a_store_or_streams(source: dict[str, Any], words: str) -> None:
    manifest = {"metadata": {"name": "d"}, "spec": {"task": "Detection", "sources": [{"name": "camera", **source}]}}
    if not words:
        assert dataset.unsupported(Dataset.model_validate(manifest).spec.recipe()) == ()
        return
    with pytest.raises(ValueError, match=words):
        Dataset.model_validate(manifest)


def test_what_needs_a_deployment_is_empty_and_not_refused() -> None:
    given = recipe(LAB, CAPTURES, prelabel=PRELABEL)
    assert dataset.unsupported(given) == ()
    captures = ("production", "captures are read from their folder: name it in uri, with the format Captures")
    assert list(empty_sources(given, has_model=True)) == [captures]
    assert list(empty_sources(given, has_model=False)) == [
        captures,
        ("prelabel", "ModelDeployment 'cells' has no model, so nothing is labelled"),
    ]
    assert list(empty_sources(recipe(LAB), has_model=False)) == []


@pytest.mark.parametrize(
    ("task", "prelabel", "words"),
    [
        (
            "InstanceSegmentation",
            {"export": {"uri": "s3://b/todo", "format": "CVAT"}},
            "exporting masks in this format",
        ),
        ("SemanticSegmentation", {"export": {"uri": "s3://b/t", "format": "LabelStudio"}}, "exporting masks in this"),
        ("SemanticSegmentation", {"use": "Immediately"}, "taking a class for each pixel without review"),
        ("Detection", {"export": {"uri": "https://e.com/t", "format": "CVAT"}}, "exporting to a web server"),
        ("InstanceSegmentation", {"export": {"uri": "s3://b/todo", "format": "COCO"}}, ""),
        ("Detection", {"export": {"uri": "s3://b/todo", "format": "CVAT"}}, ""),
    ],
)
def test_what_cannot_be_labelled_beforehand_is_no_run(task: str, prelabel: dict[str, Any], words: str) -> None:
    """The API server refuses it; objects that earlier versions accepted stay readable."""
    wish = {"modelDeploymentRef": {"name": "cells"}, **prelabel}
    manifest = {"metadata": {"name": "d"}, "spec": {"task": task, "sources": [LAB], "prelabel": wish}}
    found = dataset.unsupported(Dataset.model_validate(manifest).spec.recipe())
    assert [words in str(each) for each in found] == ([True] if words else [])


@pytest.mark.parametrize("task", SUPPORTED_FORMATS)
@pytest.mark.parametrize("format", dataset.Format)
def test_a_dataset_is_accepted_where_its_format_can_be_read(task: Task, format: dataset.Format) -> None:
    source = LAB | {"format": format.value}
    manifest = {"metadata": {"name": "cells"}, "spec": {"task": task.value, "sources": [source]}}
    if format in SUPPORTED_FORMATS[task]:
        assert Dataset.model_validate(manifest).spec.task is task
    else:
        with pytest.raises(ValueError, match=r"can be read from|videos have no labels"):
            Dataset.model_validate(manifest)


@pytest.mark.parametrize("task", SUPPORTED_FORMATS)
def test_masks_hold_255_classes(task: Task) -> None:
    def manifest(classes: int) -> dict[str, Any]:
        names = [f"class-{number}" for number in range(classes)]
        source = LAB | {"format": SUPPORTED_FORMATS[task][-1].value}
        return {"metadata": {"name": "cells"}, "spec": {"task": task.value, "sources": [source], "classes": names}}

    assert len(Dataset.model_validate(manifest(255)).spec.classes) == 255
    if task is Task.SEMANTIC_SEGMENTATION:
        with pytest.raises(ValueError, match="masks hold 255 classes; merge some by classMap"):
            Dataset.model_validate(manifest(256))
    else:
        assert len(Dataset.model_validate(manifest(256)).spec.classes) == 256
