"""Every reader on inputs that nobody would write: no error but our own, no hang, bounded memory.

`make fuzz` runs it for longer (FOVEA_FUZZ_EXAMPLES); a failure is shrunk, and stays in .hypothesis until it is mended.
"""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_support import draw, read_source
from fovea_api.common import Task
from fovea_api.dataset import SUPPORTED_FORMATS, Format
from fovea_api.errors import FoveaError
from fovea_serving.pipeline import decode_image
from fovea_trainer.data.formats.csv_columns import BOXES, DIFFICULT, IMAGE, NAME, SPLIT, VIA
from fovea_trainer.data.formats.json_stream import stream_arrays, stream_list
from fovea_trainer.data.formats.label_me import POINTS as POINTS_OF_KIND
from fovea_trainer.data.formats.label_studio import decode_alpha
from fovea_trainer.data.formats.masks import compiled
from fovea_trainer.data.formats.xml_tree import parse_xml, stream_xml
from fovea_trainer.data.text import decode_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FOVEA_FUZZ_EXAMPLES", "25"))
SECONDS = 120
"""Longest time that one input may take; most take milliseconds."""
MEMORY = 1 << 30
"""Bytes that all inputs together may add to the process."""

FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="FOVEA_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@contextmanager
def bounded() -> Iterator[None]:
    """Fails where the block takes too long, or leaves too much memory behind; our own errors are right."""

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    earlier = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    except FoveaError:
        pass
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


# --- Words that are half right ---

NUMBERS = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([0, 1, -1, 0.5, 1e9, -1e9, 1e308, 10**400, 2**63, float("nan"), float("inf"), 1e-320]),
    st.floats(0, 1),
)
NAMES = st.one_of(
    st.sampled_from(["cat", "dog", "", " ", "0", "1", "Ü", "U\u0308", "a.jpg", "b/a.jpg", "\\", "..", "\0"]),
    st.text(max_size=8),
)
PATHS = st.one_of(
    st.sampled_from(
        [
            "images/a.jpg",
            "a.jpg",
            "images\\a.jpg",
            "/a.jpg",
            "../a.jpg",
            "C:\\a.jpg",
            "s3://[a.jpg",
            "%61.jpg",
            "file:///a.jpg",
            "a.jpg/",
            "./",
            "?d=a.jpg",
            "/data/local-files/?d=a.jpg",
        ]
    ),
    NAMES,
)
SCALARS = st.one_of(NUMBERS, NAMES, st.none(), st.booleans())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=8
)
LINES = st.lists(st.lists(st.one_of(NUMBERS.map(str), NAMES), max_size=12).map(" ".join), max_size=6).map("\n".join)


def or_any(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Three times of four from the strategy: one_of counts the same strategy once."""
    return st.integers(0, 3).flatmap(lambda pick: strategy if pick else VALUES)


IDS = or_any(st.sampled_from([1, 2, "1", 1.0]))
POLYGON = st.lists(NUMBERS, min_size=4, max_size=9)
SEGMENTATION = st.one_of(
    st.lists(POLYGON, max_size=3),
    POLYGON,
    st.fixed_dictionaries(
        {
            "size": or_any(st.just([100, 100])),
            "counts": st.one_of(st.text(max_size=30), st.lists(NUMBERS, max_size=5), st.just([10_000])),
        }
    ),
    VALUES,
)
COCO = st.fixed_dictionaries(
    {},
    optional={
        "images": or_any(
            st.lists(
                or_any(
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "id": IDS,
                            "file_name": or_any(PATHS),
                            "width": or_any(st.just(100)),
                            "height": or_any(st.just(100)),
                        },
                    )
                ),
                max_size=4,
            )
        ),
        "annotations": or_any(
            st.lists(
                or_any(
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "id": IDS,
                            "image_id": IDS,
                            "category_id": IDS,
                            "bbox": or_any(st.lists(NUMBERS, min_size=3, max_size=5)),
                            "segmentation": SEGMENTATION,
                            "iscrowd": VALUES,
                            "caption": NAMES,
                        },
                    )
                ),
                max_size=4,
            )
        ),
        "categories": or_any(
            st.lists(or_any(st.fixed_dictionaries({}, optional={"id": IDS, "name": or_any(NAMES)})), max_size=4)
        ),
        "info": VALUES,
    },
)
WITHIN = st.one_of(st.integers(0, 20), st.floats(0, 20), NUMBERS)
POINTS = st.lists(st.lists(WITHIN, min_size=2, max_size=2), max_size=5)
PICTURE = st.one_of(
    st.just(base64.b64encode(cv2.imencode(".png", np.eye(9, dtype=np.uint8))[1].tobytes()).decode()),
    st.binary(max_size=30).map(lambda data: base64.b64encode(data).decode()),
)
LABEL_ME = st.fixed_dictionaries(
    {},
    optional={
        "flags": or_any(st.dictionaries(NAMES, st.booleans(), max_size=3)),
        "shapes": or_any(
            st.lists(
                or_any(
                    st.fixed_dictionaries(
                        {"label": or_any(NAMES), "points": or_any(POINTS)},
                        optional={
                            "shape_type": or_any(st.sampled_from([*POINTS_OF_KIND, None])),
                            "group_id": IDS,
                            "mask": or_any(PICTURE),
                            "flags": VALUES,
                        },
                    )
                ),
                max_size=5,
            )
        ),
        "imagePath": or_any(PATHS),
        "imageData": VALUES,
        "imageWidth": or_any(st.just(20)),
        "imageHeight": or_any(st.just(20)),
    },
)
CREATE_ML = st.lists(
    or_any(
        st.fixed_dictionaries(
            {"image": or_any(PATHS)},
            optional={
                "annotations": or_any(
                    st.lists(
                        or_any(
                            st.fixed_dictionaries(
                                {"label": or_any(NAMES)},
                                optional={
                                    "coordinates": or_any(
                                        st.fixed_dictionaries(dict.fromkeys(("x", "y", "width", "height"), WITHIN))
                                    )
                                },
                            )
                        ),
                        max_size=4,
                    )
                )
            },
        )
    ),
    max_size=4,
)
CELLS = st.one_of(WITHIN.map(str), PATHS, st.sampled_from(["train", '"', '"a', "nan", '"{""x"": 1}"', "cat\ndog"]))
COLUMNS = st.one_of(
    st.sampled_from([*IMAGE, *NAME, *SPLIT, *DIFFICULT, *VIA, *(name for _, names in BOXES for name in names)]), CELLS
)
CSV = st.tuples(
    st.sampled_from([",", ";", "\t"]),
    st.one_of(
        st.lists(COLUMNS, max_size=8),
        st.just(["filename", "xmin", "ymin", "xmax", "ymax", "class", "split"]),
        st.permutations(["filename", "class", "xmin", "ymin", "xmax", "ymax", "split"]),
        st.just(["image", *VIA]),
    ),
    st.lists(
        st.one_of(
            st.lists(CELLS, max_size=10),
            st.lists(WITHIN.map(str), min_size=6, max_size=6).map(lambda it: ["images/a.jpg", *it]),
        ),
        max_size=6,
    ),
).map(lambda it: "\n".join(it[0].join(row) for row in (it[1], *it[2])))
YAML = st.one_of(
    LINES,
    st.text(max_size=60),
    st.fixed_dictionaries(
        {},
        optional={
            "names": VALUES,
            "nc": SCALARS,
            "kpt_shape": VALUES,
            "train": or_any(PATHS),
            "val": or_any(PATHS),
            "path": VALUES,
        },
    ).map(lambda value: json.dumps(value, ensure_ascii=False)),
)
TAGS = st.sampled_from(
    [
        "annotation",
        "object",
        "name",
        "bndbox",
        "xmin",
        "ymin",
        "xmax",
        "ymax",
        "size",
        "width",
        "height",
        "filename",
        "robndbox",
        "cx",
        "cy",
        "w",
        "h",
        "angle",
        "polygon",
        "x1",
        "y1",
        "part",
    ]
)
XML = st.recursive(
    st.one_of(NUMBERS.map(str), NAMES, st.just("a.jpg")),
    lambda inner: st.tuples(TAGS, st.lists(inner, max_size=7).map("".join)).map(
        lambda it: f"<{it[0]}>{it[1]}</{it[0]}>"
    ),
    max_leaves=25,
).map(lambda inner: f"<annotation>{inner}</annotation>")
SIDES = ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry", "left", "top", "width", "height", "frame", "z_order")
ATTRIBUTES = {
    **dict.fromkeys(SIDES, NUMBERS.map(str)),
    **dict.fromkeys(("rotation", "outside", "group_id"), st.sampled_from(["0", "1", "30.5", "x", "nan"])),
    **dict.fromkeys(("label", "subset"), st.sampled_from(["cat", "", "train", "Ü"])),
    "name": st.sampled_from(["a.jpg", "images/a.jpg", "b/a.jpg", "frame_000001", "", "../a.jpg", "/"]),
    "points": st.lists(st.tuples(NUMBERS, NUMBERS).map(lambda it: f"{it[0]},{it[1]}"), max_size=5).map(";".join),
    "rle": st.lists(NUMBERS.map(str), max_size=5).map(", ".join),
}
CVAT_TAGS = ("image", "track", "box", "polygon", "mask", "ellipse", "points", "cuboid", "skeleton", "tag")
META = ("meta", "task", "project", "tasks", "labels", "label", "type", "mode", "subset", "original_size", "parent")
CVAT = st.recursive(
    st.one_of(NUMBERS.map(str), st.sampled_from(["cat", "interpolation", "tag"])),
    lambda inner: st.tuples(
        st.sampled_from((*CVAT_TAGS, *CVAT_TAGS, *META)),
        st.fixed_dictionaries({}, optional=ATTRIBUTES),
        st.lists(inner, max_size=5).map("".join),
    ).map(
        lambda it: (
            f"<{it[0]}{''.join(f' {key}={chr(34)}{text}{chr(34)}' for key, text in it[1].items())}>{it[2]}</{it[0]}>"
        )
    ),
    max_leaves=25,
).map(lambda inner: f"<annotations>{inner}</annotations>")
GEOMETRY = {
    **dict.fromkeys(("x", "y", "width", "height", "radiusX", "radiusY", "rotation"), or_any(NUMBERS)),
    "points": or_any(st.lists(or_any(st.lists(NUMBERS, min_size=2, max_size=2)), max_size=5)),
    "rle": or_any(st.lists(st.integers(0, 255), max_size=30)),
    **dict.fromkeys(("rectanglelabels", "polygonlabels", "brushlabels", "choices"), or_any(st.just(["cat"]))),
}
RESULT = st.fixed_dictionaries(
    {"value": or_any(st.fixed_dictionaries({}, optional=GEOMETRY))},
    optional={
        "type": or_any(
            st.sampled_from(["rectanglelabels", "polygonlabels", "brushlabels", "choices", "brush", "labels"])
        ),
        **dict.fromkeys(("original_width", "original_height"), or_any(st.sampled_from([20, 1]))),
        "id": IDS,
    },
)
ANNOTATION = st.fixed_dictionaries(
    {"result": or_any(st.lists(or_any(RESULT), max_size=4))},
    optional={"was_cancelled": VALUES, "ground_truth": VALUES, "updated_at": SCALARS},
)
LABEL_STUDIO = st.lists(
    or_any(
        st.fixed_dictionaries(
            {"data": or_any(st.dictionaries(st.sampled_from(["image", "photo"]), or_any(PATHS), max_size=2))},
            optional={
                "annotations": or_any(st.lists(or_any(ANNOTATION), max_size=3)),
                "completions": VALUES,
                "annotator": VALUES,
            },
        )
    ),
    max_size=4,
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "windows-1252", "gb18030"])


def encoded(texts: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Texts in some encoding, cut or spoilt now and then."""
    data = st.tuples(texts, ENCODINGS).map(lambda it: it[0].encode(it[1], errors="replace"))
    spoilt = st.tuples(data, st.binary(max_size=3), st.integers(0, 200)).map(
        lambda it: it[0][: it[2]] + it[1] + it[0][it[2] :]
    )
    cut = st.tuples(data, st.integers(0, 200)).map(lambda it: it[0][: it[1]])
    return st.one_of(data, data, data, spoilt, cut, st.binary(max_size=80))


def tree(files: dict[str, bytes]) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    draw(Path(folder.name) / "images/a.jpg", 20, 20)
    draw(Path(folder.name) / "b/a.jpg", 20, 20, 1)
    for name, data in files.items():
        (Path(folder.name) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(folder.name) / name).write_bytes(data)
    return folder


def tasks(format: Format) -> list[Task]:
    return [task for task, formats in SUPPORTED_FORMATS.items() if format in formats]


def read_all(format: Format, files: dict[str, bytes], **options: object) -> None:
    with tree(files) as folder:
        for task in tasks(format):
            with bounded():
                read_source(format, Path(folder), task, **options)


@FUZZ
@given(st.one_of(COCO.map(json.dumps), st.text(max_size=60), LINES).flatmap(lambda text: encoded(st.just(text))))
def test_coco(data: bytes) -> None:
    read_all(Format.COCO, {"x.json": data})


@FUZZ
@given(encoded(YAML), encoded(LINES), encoded(LINES), encoded(LINES))
def test_yolo(described: bytes, names: bytes, first: bytes, second: bytes) -> None:
    files = {
        "data.yaml": described,
        "b/classes.txt": names,
        "labels/a.txt": first,
        "b/a.txt": second,
        "obj.data": names,
    }
    read_all(Format.YOLO, files)


@FUZZ
@given(encoded(XML), encoded(XML), encoded(LINES))
def test_pascal_voc(first: bytes, second: bytes, listed: bytes) -> None:
    files = {"images/a.xml": first, "Annotations/a.xml": second, "ImageSets/Main/train.txt": listed}
    read_all(Format.PASCAL_VOC, files)


@FUZZ
@given(encoded(CVAT))
def test_cvat(data: bytes) -> None:
    read_all(Format.CVAT, {"x.xml": data, "images/frame_000001.PNG": b"", "images/train/frame_000001.PNG": b""})


@FUZZ
@given(encoded(LABEL_STUDIO.map(json.dumps)))
def test_label_studio(data: bytes) -> None:
    read_all(Format.LABEL_STUDIO, {"x.json": data})


@FUZZ
@given(LABEL_ME.map(json.dumps).flatmap(lambda text: encoded(st.just(text))), encoded(LINES))
def test_label_me(beside: bytes, elsewhere: bytes) -> None:
    read_all(Format.LABEL_ME, {"images/a.json": beside, "b/c.json": elsewhere, "x.json": beside})


@FUZZ
@given(st.one_of(CREATE_ML.map(json.dumps), LINES).flatmap(lambda text: encoded(st.just(text))))
def test_create_ml(data: bytes) -> None:
    read_all(Format.CREATE_ML, {"x.json": data})


@FUZZ
@given(encoded(st.one_of(CSV, LINES)), encoded(CSV))
def test_csv(first: bytes, second: bytes) -> None:
    read_all(Format.CSV, {"x.csv": first, "b/train.tsv": second})


@FUZZ
@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(0, 3))
def test_idx(images: bytes, labels: bytes, dimensions: int) -> None:
    head = bytes([0, 0, 8, dimensions])
    read_all(Format.IDX, {"train-images-idx3-ubyte": head + images, "train-labels-idx1-ubyte": head + labels})


@FUZZ
@given(
    st.binary(max_size=200),
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"GIF89a", b""]),
)
def test_images_and_masks(data: bytes, head: bytes) -> None:
    with bounded():
        decode_image(head + data)
    files = {"masks/a.png": head + data, "images/b.png": head + data}
    read_all(Format.MASKS, files, classes=("x", "y"))
    read_all(Format.MASKS, files, classes=("x", "y"), mask_colors={"x": "#000000", "y": "#ffffff"})
    read_all(Format.IMAGE_FOLDER, files)


SEED = Path(__file__).parents[1] / "cases"
FILES = [
    *sorted(SEED.glob("39-*/data/a0.jpg")),
    *sorted(SEED.glob("34-*/data/masks/a0.png")),
    *sorted(SEED.glob("32-*/data/pets/*/2[0-9]*")),
]


@FUZZ
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8),
    st.integers(0, 5000),
)
def test_spoilt_images(file: Path, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(file.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    spoilt = bytes(data if cut > len(data) else data[:cut])
    read_all(Format.MASKS, {"masks/a.png": spoilt, "images/c.png": spoilt, "masks/c.png": spoilt}, classes=("x", "y"))
    with bounded():
        decode_image(spoilt)


@FUZZ
@given(st.text(max_size=300), st.binary(max_size=300))
def test_parts(text: str, data: bytes) -> None:
    import io

    with bounded():
        list(stream_arrays(io.StringIO(text), "x", set()))
    with bounded():
        list(stream_list(io.StringIO(text), "x"))
    with bounded():
        parse_xml(data, "x")
    with bounded():
        list(stream_xml(io.BytesIO(b"<a>" + data), "x", "a"))
    with bounded():
        decode_alpha(data, 2, 2, "x")
    assert isinstance(decode_text(data)[0], str)


@FUZZ
@given(st.from_regex(re.compile("^[^{}]*([{][a-z]+[}][^{}]*)+$", re.ASCII)), st.text(max_size=200))
def test_patterns(pattern: str, path: str) -> None:
    with bounded():
        compiled(pattern).fullmatch(path)


BOMB = base64.b64encode(cv2.imencode(".png", np.zeros((9_000, 9_000), np.uint8))[1].tobytes()).decode()
BOMBS = {
    "nested JSON": (Format.COCO, {"x.json": b'{"images": ' + b"[" * 200_000}),
    "deep JSON": (Format.COCO, {"x.json": b'{"a": ' + b'{"b": ' * 100_000}),
    "a number without end": (Format.COCO, {"x.json": b'{"images": [' + b"9" * 1_000_000}),
    "run lengths of a huge picture": (
        Format.COCO,
        {
            "x.json": json.dumps(
                {
                    "images": [{"id": 1, "file_name": "images/a.jpg"}],
                    "categories": [{"id": 1, "name": "a"}],
                    "annotations": [
                        {"image_id": 1, "category_id": 1, "segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}
                    ],
                }
            ).encode()
        },
    ),
    "a polygon round the world": (
        Format.COCO,
        {
            "x.json": json.dumps(
                {
                    "images": [{"id": 1, "file_name": "images/a.jpg"}],
                    "categories": [{"id": 1, "name": "a"}],
                    "annotations": [
                        {
                            "image_id": 1,
                            "category_id": 1,
                            "bbox": [0, 0, 5, 5],
                            "segmentation": [[0, 0, 39, 39] * 100_000],
                        }
                    ],
                }
            ).encode()
        },
    ),
    "a picture in a mask, of a huge image": (
        Format.LABEL_ME,
        {
            "images/a.json": json.dumps(
                {
                    "shapes": [{"label": "a", "shape_type": "mask", "points": [[0, 0], [9, 9]], "mask": BOMB}] * 4,
                    "imageWidth": 10**6,
                    "imageHeight": 10**6,
                }
            ).encode()
        },
    ),
    "nested CreateML": (Format.CREATE_ML, {"x.json": b"[" * 200_000}),
    "many columns": (Format.CSV, {"x.csv": b"image" + b",label" * 20_000 + b"\n" + b"a.jpg,1\n" * 1000}),
    "a cell without end": (Format.CSV, {"x.csv": b'image,label\n"' + b"a,b\n" * 500_000}),
    "a line without end": (Format.CSV, {"x.csv": b"," * 5_000_000}),
    "YAML's laughs": (Format.YOLO, {"data.yaml": b"a: &a [x,x]\nb: &b [*a,*a]\nnames: [*b,*b]"}),
    "nested YAML": (Format.YOLO, {"data.yaml": b"names: " + b"[" * 500_000}),
    "many lines": (Format.YOLO, {"labels/a.txt": b"0 0.5 0.5 0.1 0.1\n" * 20_000}),
    "XML's laughs": (
        Format.PASCAL_VOC,
        {"images/a.xml": b'<!DOCTYPE a [<!ENTITY b "bb">]><annotation>&b;</annotation>'},
    ),
    "nested XML": (Format.PASCAL_VOC, {"images/a.xml": b"<a>" * 100_000}),
    "laughs in CVAT": (Format.CVAT, {"x.xml": b'<!DOCTYPE a [<!ENTITY b "bb">]><annotations>&b;</annotations>'}),
    "nested in CVAT": (Format.CVAT, {"x.xml": b"<annotations>" + b"<image>" * 100_000}),
    "masks of a huge picture": (
        Format.CVAT,
        {
            "x.xml": b'<annotations><image name="images/a.jpg" width="1000000" height="1000000">'
            + b'<mask label="a" rle="0, 1000000000000" left="0" top="0" width="1000000" height="1000000"/>' * 99
            + b"</image></annotations>"
        },
    ),
    "an ellipse round the world": (
        Format.CVAT,
        {
            "x.xml": b'<annotations><image name="images/a.jpg" width="20" height="20">'
            b'<ellipse label="a" cx="1" cy="1" rx="999999" ry="999999"/></image></annotations>'
        },
    ),
    "many frames": (
        Format.CVAT,
        {
            "x.xml": b'<annotations><track label="a">'
            + b"".join(
                b'<box frame="%d" xtl="1" ytl="1" xbr="9" ybr="9"/>' % (n * 1000 % 999_983) for n in range(20_000)
            )
            + b"</track></annotations>"
        },
    ),
    "brush strokes of a huge picture": (
        Format.LABEL_STUDIO,
        {
            "x.json": json.dumps(
                [
                    {
                        "data": {"image": "images/a.jpg"},
                        "annotations": [
                            {
                                "result": [
                                    {
                                        "type": "brushlabels",
                                        **dict.fromkeys(("original_width", "original_height"), 2**15),
                                        "value": {"brushlabels": ["a"], "rle": [255, 255, 255, 255] * 99},
                                    }
                                ]
                                * 99
                            }
                        ],
                    }
                ]
            ).encode()
        },
    ),
    "many objects": (Format.PASCAL_VOC, {"images/a.xml": b"<annotation>" + b"<object/>" * 20_000 + b"</annotation>"}),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs(case: str) -> None:
    format, files = BOMBS[case]
    read_all(format, files)  # type: ignore[arg-type]
