"""Hostile and broken input: survived, and named by file and line."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from dataset_support import BCCD, Build, detection, read_all
from fovea_api.common import Task
from fovea_api.dataset import Format, Source
from fovea_api.errors import InvalidInput
from fovea_trainer.data.checks import inspect_image
from fovea_trainer.data.sources import Limits, open_source, unpack
from fovea_trainer.data.version import open_version

IMAGE = BCCD / "JPEGImages/BloodImage_00001.jpg"
BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]>\n<annotation><object>&c;</object></annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<annotation>&x;</annotation>'
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox>"


def voc_object(name: str = "<name>a</name>", box: str = BOX.format(9)) -> str:
    return f"<annotation>\n<object>\n{name}\n{box}\n</object>\n</annotation>"


VOC = {
    "entity bomb": (BOMB, "a.xml:1"),
    "external entity": (OUTSIDE, "a.xml:1"),
    "cut off": ("<annotation>\n<object>", "a.xml:2"),
    "empty": ("", "a.xml:1"),
    "no XML": ("\x00\x01\x02", "a.xml:1"),
    "other root": ("\n<html></html>", "a.xml:2"),
    "nested": ("<a>" * 50 + "</a>" * 50, "a.xml:1"),
    "no name": (voc_object(name=""), "a.xml:2"),
    "no box": (voc_object(box=""), "a.xml:2"),
    "no xmax": (voc_object(box="<bndbox><xmin>1</xmin><ymin>1</ymin></bndbox>"), "a.xml:4"),
    "no number": (voc_object(box=BOX.format("wide")), "a.xml:4"),
    "NaN": (voc_object(box=BOX.format("nan")), "a.xml:2"),
    "infinite": (voc_object(box=BOX.format("1e999")), "a.xml:2"),
    "swapped": (voc_object(box=BOX.format("-9")), "a.xml:2"),
    "outside": (
        voc_object(box=BOX.format("9").replace("<xmin>1<", "<xmin>-99<").replace(">9<", ">-9<")),
        "a.xml:2",
    ),
}
YOLO = {
    "words": ("0 0.5 0.5 0.1 0.1\nno numbers here at all", "a.txt:2"),
    "too few": ("0 0.5 0.5", "a.txt:1"),
    "NaN": ("\n0 nan 0.5 0.1 0.1", "a.txt:2"),
    "infinite": ("0 inf 0.5 0.1 0.1", "a.txt:1"),
    "class": ("-1 0.5 0.5 0.1 0.1", "a.txt:1"),
    "huge class": ("1e9 0.5 0.5 0.1 0.1", "a.txt:1"),
    "half class": ("1.5 0.5 0.5 0.1 0.1", "a.txt:1"),
    "pixels": ("0 300 300 20 20", "a.txt:1"),
    "not text": ("\ud800", "a.txt"),
}
CATEGORIES = [{"id": 1, "name": "a"}]
IMAGES = [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}]
ANNOTATION = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}


def coco(images: object = IMAGES, annotations: object = (ANNOTATION,)) -> str:
    lines = [f'"images": {json.dumps(images)}', f'"annotations": {json.dumps(annotations)}']
    return "{\n" + ",\n".join([*lines, f'"categories": {json.dumps(CATEGORIES)}']) + "\n}"


COCO = {
    "cut off": (coco()[:60], "a.json:2"),
    "no JSON": ("hello", "a.json:1"),
    "empty": ("", "a.json:1"),
    "list": ("[1, 2]", "a.json:1"),
    "deep": ('{"images": ' + "[" * 100_000, "a.json:1"),
    "not UTF-8": ("\udcff", "a.json:1"),
    "other": ('{"a": 1}', "a.json:1"),
    "image without id": (coco(images=[{"file_name": "a.jpg"}]), "a.json:2"),
    "id twice": (coco(images=[*IMAGES, {**IMAGES[0], "file_name": "b.jpg"}]), "a.json:2"),
    "traversal": (coco(images=[{**IMAGES[0], "file_name": "../../etc/passwd"}]), "a.json:2"),
    "half a letter": (coco(images=[*IMAGES, {**IMAGES[0], "id": 2, "file_name": "\ud800.jpg"}]), "a.json:2"),
    "absolute": (coco(images=[{**IMAGES[0], "file_name": "/etc/passwd"}]), "a.json:2"),
    "box of three": (coco(annotations=[{**ANNOTATION, "bbox": [1, 2, 3]}]), "a.json:3"),
    "NaN": (coco(annotations=[{**ANNOTATION, "bbox": [1, 1, float("nan"), 2]}]), "a.json:3"),
    "text": (coco(annotations=[{**ANNOTATION, "bbox": "1,2,3,4"}]), "a.json:3"),
    "unknown category": (coco(annotations=[{**ANNOTATION, "category_id": 7}]), "a.json:3"),
    "unknown image": (coco(annotations=[{**ANNOTATION, "image_id": 7}]), "a.json:3"),
    "no category": (coco(annotations=[{"image_id": 1, "bbox": [1, 1, 20, 20]}]), "a.json:3"),
}


def refused(build: Build, spec: dict[str, object]) -> str:
    with pytest.raises(InvalidInput) as error:
        build({**spec, "quality": {"onInvalidLabel": "Fail", "onCorruptImage": "Fail"}})
    return str(error.value)


@pytest.mark.parametrize("case", VOC)
def test_pascal_voc(case: str, build: Build, tmp_path: Path) -> None:
    text, place = VOC[case]
    root = tmp_path / "s"
    root.mkdir()
    shutil.copy(IMAGE, root / "a.jpg")
    (root / "a.xml").write_text(text)
    assert place in refused(build, detection(root))


@pytest.mark.parametrize("case", YOLO)
def test_yolo(case: str, build: Build, tmp_path: Path) -> None:
    text, place = YOLO[case]
    root = tmp_path / "s"
    root.mkdir()
    shutil.copy(IMAGE, root / "a.jpg")
    (root / "a.txt").write_bytes(text.encode(errors="surrogatepass"))
    assert place in refused(build, detection(root, "YOLO"))


@pytest.mark.parametrize("text", ["names: [a, &x b, *x]", "names: 3", "names: [", "a: b: c", "\t- x", "names: {x: a}"])
def test_yolo_names(text: str, build: Build, tmp_path: Path) -> None:
    root = tmp_path / "s"
    root.mkdir()
    shutil.copy(IMAGE, root / "a.jpg")
    (root / "data.yaml").write_text(text)
    assert "data.yaml:1" in refused(build, detection(root, "YOLO"))


@pytest.mark.parametrize("case", COCO)
def test_coco(case: str, build: Build, tmp_path: Path) -> None:
    text, place = COCO[case]
    root = tmp_path / "s"
    root.mkdir()
    shutil.copy(IMAGE, root / "a.jpg")
    (root / "a.json").write_bytes(text.encode(errors="surrogateescape"))
    assert place in refused(build, detection(root, "COCO"))


IDX = {
    "magic": b"\x01\x02\x03\x04" + bytes(40),
    "count": bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 28, 28),
    "side": bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 2**31, 2**31),
    "short": bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 28, 28) + bytes(3),
    "empty": b"",
    "labels differ": bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 1, 1) + bytes(2),
}


@pytest.mark.parametrize("case", IDX)
def test_idx(case: str, build: Build, tmp_path: Path) -> None:
    root = tmp_path / "s"
    root.mkdir()
    (root / "train-images-idx3-ubyte").write_bytes(IDX[case])
    (root / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", 1) + bytes(1))
    message = refused(build, {**detection(root, "IDX"), "task": "Classification"})
    assert "train-" in message


def test_idx_cut_off_gzip(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(5000))[:-6])
    source = Source.model_validate({"name": "s", "uri": f"file://{tmp_path}", "format": "IDX"})
    with pytest.raises(InvalidInput, match=r"ubyte\.gz: the file cannot be unpacked"):
        open_source(source, tmp_path / "w")


def test_image_folder_without_classes(tmp_path: Path) -> None:
    shutil.copy(IMAGE, tmp_path / "a.jpg")
    with pytest.raises(InvalidInput, match="no image lies in a class's folder"):
        read_all(Format.IMAGE_FOLDER, tmp_path, Task.CLASSIFICATION)


MASKS: dict[str, Callable[[Path], object]] = {
    "no image": lambda file: file.write_bytes(b"no image"),
    "other size": lambda file: shutil.copy(BCCD.parents[1] / "membrane/labels/0.png", file),
    "photo": lambda file: shutil.copy(IMAGE, file),
    "missing": lambda file: file.with_name("other.png").write_bytes(file.name.encode()),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks(case: str, build: Build, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "s" / folder).mkdir(parents=True)
    shutil.copy(IMAGE, tmp_path / "s/images/a.jpg")
    MASKS[case](tmp_path / "s/masks/a.png")
    spec = {**detection(tmp_path / "s", "Masks"), "task": "SemanticSegmentation", "classes": ["a", "b"]}
    assert "a.png" in refused(build, spec) or case == "missing"


HUGE = struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)
CORRUPT = {
    "empty": b"",
    "text": b"<html>404</html>",
    "cut off": IMAGE.read_bytes()[:-3000],
    "header only": IMAGE.read_bytes()[:30],
    "huge": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + HUGE + bytes(8) + b"IDAT" + bytes(4),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_corrupt_images_are_left_out_and_named(case: str, build: Build, voc: Path) -> None:
    (voc / "JPEGImages/BloodImage_00002.jpg").write_bytes(CORRUPT[case])
    with pytest.raises(InvalidInput, match=r"a\.jpg"):
        inspect_image(CORRUPT[case], "a.jpg")
    assert "BloodImage_00002.jpg" in refused(build, detection(voc))
    result = build(detection(voc))
    assert (result.summary.images, result.summary.quality.corrupt) == (23, 1)


def test_a_missing_image_is_named_by_its_annotation(build: Build, voc: Path) -> None:
    (voc / "JPEGImages/BloodImage_00002.jpg").unlink()
    assert "Annotations/BloodImage_00002.xml" in refused(build, detection(voc))


def archive(tmp_path: Path, kind: str, name: str, content: bytes = b"x", link: str = "") -> Path:
    file = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o120777 if link else 0o100644) << 16
            packed.writestr(info, link or content)
    else:
        with tarfile.open(file, f"w:{kind.split('.')[1]}" if "." in kind else "w") as packed_tar:
            member = tarfile.TarInfo(name)
            member.size = 0 if link else len(content)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link
            packed_tar.addfile(member, io.BytesIO(content))
    return file


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_archives_cannot_write_elsewhere(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(InvalidInput, match="outside of the folder"):
        unpack(archive(tmp_path, kind, name), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_links_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InvalidInput, match="is a link"):
        unpack(archive(tmp_path, kind, "a", link="/etc/passwd"), tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_bombs_are_stopped(tmp_path: Path, kind: str) -> None:
    limits = Limits(ratio_from=1 << 20)
    with pytest.raises(InvalidInput, match="more than 100 times its size"):
        unpack(archive(tmp_path, kind, "a", bytes(8 << 20)), tmp_path / "out", limits)
    with pytest.raises(InvalidInput, match="more than 0 files"):
        unpack(archive(tmp_path, kind, "a"), tmp_path / "out", Limits(files=0))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.zst"])
def test_broken_archives(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is no archive, whatever it is called" * 30)
    with pytest.raises(InvalidInput, match="the archive is broken"):
        unpack(tmp_path / name, tmp_path / "out")


def test_an_archive_is_a_source(build: Build, voc: Path, tmp_path: Path) -> None:
    plain = build(detection(voc))
    for format in ("zip", "gztar", "xztar"):
        file = shutil.make_archive(str(tmp_path / f"packed-{format}"), format, voc)
        assert build(detection(Path(file))).digest == plain.digest
    spec = detection(Path(file))
    spec["sources"][0]["sha256"] = "0" * 64  # type: ignore[index]
    with pytest.raises(InvalidInput, match="sha256"):
        build(spec)


@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "köter/日本.jpg"), ("cp437", "köter/é.jpg")])
def test_names_in_a_zip_that_does_not_say_its_encoding(encoding: str, name: str, tmp_path: Path) -> None:
    """macOS packs UTF-8 and does not say so; others pack the code page of the first PCs, which is what it means."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x" * len(name.encode(encoding)), b"pixels")
    packed = (tmp_path / "a.zip").read_bytes().replace(b"x" * len(name.encode(encoding)), name.encode(encoding))
    (tmp_path / "a.zip").write_bytes(packed)
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == b"pixels"


def test_names_from_data_cannot_inject_html(build: Build, voc: Path) -> None:
    file = voc / "Annotations/BloodImage_00002.xml"
    file.write_text(file.read_text().replace("<name>RBC</name>", "<name>&lt;script&gt;alert(1)&lt;/script&gt;</name>"))
    result = build(detection(voc))
    text = Path(result.report).read_text()
    assert text.count("<script") == 1, "the report's own, that filters"
    assert "&lt;script&gt;" in text
    assert len(open_version(result.artifact, voc.parent / "cache").split("train"))


@pytest.mark.parametrize("format", ["zip", "tar", "gztar", "xztar", "bztar"])
def test_cut_off_archives(tmp_path: Path, voc: Path, format: str) -> None:
    file = Path(shutil.make_archive(str(tmp_path / "a"), format, voc))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InvalidInput, match="the archive is broken"):
        unpack(file, tmp_path / "out")


def test_zstd_archives(tmp_path: Path) -> None:
    plain = archive(tmp_path, "tar", "a/b.txt", b"words")
    with pa.output_stream(str(tmp_path / "a.tar.zst"), compression="zstd") as packed:
        packed.write(plain.read_bytes())
    unpack(tmp_path / "a.tar.zst", tmp_path / "out")
    assert (tmp_path / "out/a/b.txt").read_text() == "words"
