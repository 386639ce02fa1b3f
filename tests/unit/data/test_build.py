from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_support import BCCD, MEMBRANE, Build, detection
from fovea_api.common import Task
from fovea_api.errors import CorruptData, InvalidInput, NotSupported
from fovea_api.version import MANIFEST
from fovea_serving.pipeline import decode, decode_mask
from fovea_store import NotFound, StorePath
from fovea_trainer.data import report, shard_cache, shards
from fovea_trainer.data.build import BuildResult
from fovea_trainer.data.formats.pascal_voc import parse_annotation
from fovea_trainer.data.version import open_version


def names(result: BuildResult, cache: Path) -> dict[str, str]:
    """Split by name of the image."""
    version = open_version(result.artifact, cache)
    return {sample.name: split for split in version.manifest.splits for sample in version.split(split)}


def test_bccd(build: Build, tmp_path: Path) -> None:
    spec = detection(BCCD, classes=["RBC", "WBC", "Platelets"], splits={"seed": 7})
    result = build(spec, workers=2)
    summary = result.summary
    assert (summary.images, summary.annotations, summary.quality.invalid_labels) == (364, 4886, 2)
    assert sum(summary.splits.values()) == 364
    assert abs(summary.splits["train"] - 291) <= 1
    assert [(it.name, it.annotations) for it in summary.classes] == [
        ("RBC", 4153),
        ("WBC", 372),
        ("Platelets", 361),
    ]
    # Every sample is what the source says, byte for byte and box for box.
    version = open_version(result.artifact, tmp_path / "cache")
    for split in version.manifest.splits:
        for sample in version.split(split):
            assert sample.image_bytes == (BCCD / sample.name).read_bytes()
            labels = parse_annotation(
                StorePath.parse(str(BCCD / "Annotations" / Path(sample.name).with_suffix(".xml").name)), "x"
            )
            wanted = sorted(box.corners for box in labels.boxes if box.x2 - box.x1 >= 2)
            assert sorted(map(tuple, sample.boxes.tolist())) == wanted
            assert decode(sample.image_bytes).shape == (sample.height, sample.width, 3)
    coco = json.loads((Path(result.artifact) / "coco/test.json").read_text())
    assert len(coco["images"]) == summary.splits["test"]
    report = Path(result.report).read_text()
    assert "Annotations/BloodImage_00338.xml:158" in report
    assert report.count("data:image") == 12


def test_coco_export_is_read_by_pycocotools_compatible_code(build: Build, voc: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("faster_coco_eval")
    result = build(detection(voc))
    file = Path(result.artifact) / "coco/train.json"
    loaded = coco.COCO(str(file))
    assert len(loaded.anns) == sum(len(s.boxes) for s in open_version(result.artifact, tmp_path / "c").split("train"))


def test_digest_depends_on_content_alone(build: Build, voc: Path, tmp_path: Path) -> None:
    wanted = build(detection(voc)).digest
    assert build(detection(voc), store=tmp_path / "other", workers=3).digest == wanted
    # Other folder, other order of the files, split into two sources' worth of directories.
    copy = tmp_path / "copy"
    files = [file for file in voc.rglob("*") if file.is_file()]
    random.Random(1).shuffle(files)
    for file in files:
        target = copy / file.relative_to(voc)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    assert build(detection(copy), store=tmp_path / "third").digest == wanted
    annotation = copy / "Annotations/BloodImage_00005.xml"
    annotation.write_text(annotation.read_text().replace("<xmin>", "<xmin>1", 1))
    assert build(detection(copy)).digest != wanted


def test_an_equal_version_is_adopted_without_a_write(build: Build, voc: Path) -> None:
    first = build(detection(voc))
    files = {file: file.stat().st_mtime_ns for file in Path(first.artifact).rglob("*")}
    second = build(detection(voc))
    assert second.adopted
    assert (second.summary, second.artifact) == (first.summary, first.artifact)
    assert {file: file.stat().st_mtime_ns for file in Path(first.artifact).rglob("*")} == files


def test_a_crash_leaves_no_version_and_the_next_build_completes_it(
    build: Build, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(report, "render_quality_report", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(detection(voc))
    (folder,) = (tmp_path / "store/dataset/d").iterdir()
    assert (folder / "shards").is_dir()
    with pytest.raises(NotFound, match="no complete dataset version"):
        open_version(str(folder), tmp_path / "cache")
    result = build(detection(voc))
    assert (not result.adopted, Path(result.artifact), (folder / MANIFEST).exists()) == (True, folder, True)


def test_images_keep_their_split_in_later_versions(build: Build, voc: Path, tmp_path: Path) -> None:
    spec = detection(voc, splits={"seed": 1})
    first = build(spec)
    before = names(first, tmp_path / "cache")
    assert build(spec, parent=first).digest == first.digest, "nothing changed: no new version"
    for number in range(30, 50):
        for file in BCCD.rglob(f"BloodImage_000{number}.*"):
            shutil.copy(file, voc / file.parent.name)
    gone = voc / "JPEGImages/BloodImage_00003.jpg"
    kept = gone.read_bytes()
    gone.unlink()
    second = build(spec, parent=first)
    after = names(second, tmp_path / "cache")
    assert len(after) > 36
    assert {name: split for name, split in after.items() if name in before} == {
        name: split for name, split in before.items() if name != "JPEGImages/BloodImage_00003.jpg"
    }
    gone.write_bytes(kept)  # it comes back two versions later, and finds its split
    third = names(build(spec, parent=second), tmp_path / "cache")
    assert third["JPEGImages/BloodImage_00003.jpg"] == before["JPEGImages/BloodImage_00003.jpg"]


def test_leakage_is_mended_and_reported(build: Build, voc: Path, tmp_path: Path) -> None:
    image = cv2.imread(str(voc / "JPEGImages/BloodImage_00001.jpg"))
    cv2.imwrite(str(voc / "JPEGImages/copy.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 70])
    shutil.copy(voc / "Annotations/BloodImage_00001.xml", voc / "Annotations/copy.xml")
    shutil.copy(voc / "JPEGImages/BloodImage_00002.jpg", voc / "JPEGImages/same.jpg")
    shutil.copy(voc / "Annotations/BloodImage_00002.xml", voc / "Annotations/same.xml")
    main = voc / "ImageSets/Main"
    main.mkdir(parents=True)
    stems = sorted(file.stem for file in (voc / "JPEGImages").iterdir())
    test = ["copy", "BloodImage_00004", "same"]
    (main / "test.txt").write_text("\n".join(test))
    (main / "train.txt").write_text("\n".join(stem for stem in stems if stem not in test))
    result = build(detection(voc, splits={"method": "FromSource"}))
    quality = result.summary.quality
    assert (quality.near_duplicates, quality.exact_duplicates, quality.split_leakage) == (2, 1, 1)
    after = names(result, tmp_path / "cache")
    assert "JPEGImages/BloodImage_00001.jpg" not in after
    assert after["JPEGImages/BloodImage_00002.jpg"] == "test", "the same bytes are in train and test"
    assert "it leaves train" in Path(result.report).read_text()
    together = build(detection(voc, splits={"ratios": {"train": 0.5, "validation": 0.0, "test": 0.5}}))
    after = names(together, tmp_path / "cache")
    assert after["JPEGImages/BloodImage_00001.jpg"] == after["JPEGImages/copy.jpg"]
    dropped = build(detection(voc, quality={"nearDuplicates": "Drop"}))
    assert dropped.summary.images == 24


def test_classes_are_mapped_and_dropped(build: Build, voc: Path) -> None:
    spec = detection(voc, classes=["cell"], classMap={"RBC": "cell", "WBC": "cell", "Platelets": ""})
    result = build(spec)
    assert [it.name for it in result.summary.classes] == ["cell"]
    assert result.summary.quality.invalid_labels == 0
    spec = detection(voc, classes=["RBC"], quality={"onInvalidLabel": "Fail"})
    with pytest.raises(InvalidInput, match=r"the class '\w+' is not one of RBC"):
        build(spec)
    with pytest.raises(InvalidInput, match=r"minImagesPerClass.*fewer than 1000"):
        build(detection(voc, quality={"minImagesPerClass": 1000}))


def test_excluded_images_never_appear(build: Build, voc: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256((voc / "JPEGImages/BloodImage_00001.jpg").read_bytes()).hexdigest()
    (tmp_path / "withdrawn.txt").write_text(f"{digest}  # objection\nJPEGImages/BloodImage_00002.jpg\n")
    result = build(detection(voc, exclude={"uri": f"file://{tmp_path}/withdrawn.txt"}))
    after = names(result, tmp_path / "cache")
    assert len(after) == 22
    assert not {"JPEGImages/BloodImage_00001.jpg", "JPEGImages/BloodImage_00002.jpg"} & set(after)


PRELABEL = {"modelDeploymentRef": {"name": "cells"}, "use": "Immediately"}


def test_deployments_without_a_model_give_nothing_and_the_report_says_so(
    build: Build, voc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = detection(voc, prelabel=PRELABEL)
    spec["sources"] = [*spec["sources"], captured(tmp_path)]  # type: ignore[misc]
    result = build(spec)
    assert result.digest == build(detection(voc)).digest
    assert result.summary.images == 24
    page = StorePath.parse(result.report).read_text()
    for text in ("prelabel", "nothing is labelled"):
        assert text in page
        assert text in caplog.text


def captured(folder: Path) -> dict[str, str]:
    return {"name": "production", "uri": f"file://{folder}/captures", "format": "Captures"}


def test_captures_alone_are_no_dataset(build: Build, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no image .* is left"):
        build({"task": "Detection", "sources": [captured(tmp_path)]})


def test_what_cannot_be_done_is_refused_before_any_work(build: Build, voc: Path, tmp_path: Path) -> None:
    export = {"uri": "https://cvat/todo", "format": "CVAT"}
    with pytest.raises(NotSupported, match=r"spec\.prelabel\.export\.uri"):
        build(detection(voc, prelabel={"modelDeploymentRef": {"name": "cells"}, "export": export}))
    assert not (tmp_path / "store").exists()


def test_groups_by_pattern(build: Build, voc: Path, tmp_path: Path) -> None:
    result = build(detection(voc, splits={"groupBy": {"pattern": r"Image_000(?P<group>\d)"}}))
    splits: dict[str, set[str]] = {}
    for name, split in names(result, tmp_path / "cache").items():
        splits.setdefault(name[len("JPEGImages/BloodImage_000")], set()).add(split)
    assert len(splits) == 3
    assert all(len(of_group) == 1 for of_group in splits.values())


def test_masks_reach_the_sample(build: Build, tmp_path: Path) -> None:
    values = {"cell": 255, "membrane": 0}
    spec = {
        "task": Task.SEMANTIC_SEGMENTATION.value,
        "classes": ["cell", "membrane"],
        "sources": [{"name": "em", "uri": f"file://{MEMBRANE}", "format": "Masks", "maskValues": values}],
        "splits": {"ratios": {"train": 0.8, "validation": 0.0, "test": 0.2}},
    }
    result = build(spec)
    assert dict(result.summary.splits) == {"train": 24, "test": 6}
    for sample in open_version(result.artifact, tmp_path / "cache").split("test"):
        assert sample.mask_bytes is not None
        raw = cv2.imread(str(MEMBRANE / "labels" / Path(sample.name).name), cv2.IMREAD_UNCHANGED)
        assert (decode_mask(sample.mask_bytes) == (raw == 0)).all()


def test_the_reader_works_in_other_processes(build: Build, voc: Path, tmp_path: Path) -> None:
    split = open_version(build(detection(voc)).artifact, tmp_path / "cache").split("train")
    wanted = [sample.digest for sample in split]
    assert wanted == sorted(wanted)
    assert split[-1].digest == wanted[-1]
    assert [sample.digest for sample in split[2:5]] == wanted[2:5]
    assert split.column("digest") == wanted
    with pytest.raises(IndexError):
        split[len(split)]
    assert pickle.loads(pickle.dumps(split))[3].digest == wanted[3]
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        assert [pool.submit(split.__getitem__, index).result().digest for index in range(6)] == wanted[:6]


def test_a_changed_shard_is_refused(build: Build, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = build(detection(voc))
    (shard,) = Path(result.artifact).glob("shards/train-*.parquet")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    monkeypatch.setattr(shard_cache, "PAUSE_SECONDS", 0.0)
    train = open_version(result.artifact, tmp_path / "cache").split("train")
    with pytest.raises(CorruptData, match="the shard's sha256 is"):
        _ = train[0].image_bytes


def test_many_shards_read_as_one(build: Build, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_IMAGES", 5)
    result = build(detection(voc))
    version = open_version(result.artifact, tmp_path / "cache")
    train = version.split("train")
    assert len(version.manifest.shards) > 3
    digests = [sample.digest for sample in train]
    assert (len(digests), digests) == (len(train), sorted(set(digests)))
    assert np.array_equal(train[7].boxes, train[7 - len(train)].boxes)
