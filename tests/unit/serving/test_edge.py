"""An edge package answers as Fovea does, where numpy, ONNX Runtime and Pillow are all that can be imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fovea_api.bundle import Postprocessing, Preprocessing
from fovea_api.common import Task
from fovea_api.trainingjob import Resize, Size
from fovea_serving.bundle import Bundle, load_bundle
from fovea_serving.edge import write_package
from fovea_serving.pipeline.run_lengths import mask_of
from fovea_serving.predict import predict_files
from fovea_serving.signature import SIGNATURE, UntrustedBundle, verify_signature
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps

from tests.unit.serving.chromium import Browser
from tests.unit.serving.conftest import write_bundle

Make = Callable[[Task, Resize], Bundle]
Runner = Callable[[Path, list[Path]], dict[Path, dict[str, Any]]]
PHOTOS = sorted((Path(__file__).parents[3] / "examples/data/bccd/BCCD/JPEGImages").glob("*.jpg"))[:3]
WIDTH, HEIGHT, STRIDE = 96, 64, 4
ABSENT = ("cv2", "fovea_api", "fovea_serving", "onnx", "pydantic", "torch", "yaml")
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT}))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CACHE = Path(
    os.environ.get("FOVEA_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fovea"
)
RUNTIME = CACHE / "edge/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs"
IN_NODE = """
import { readFile } from "node:fs/promises";
const [runtime, folder, pictures] = process.argv.slice(1);
const ort = await import(runtime);
ort.env.wasm.numThreads = 1;
const { load } = await import(`${folder}/predict.mjs`);
const predict = await load(ort, (name) => readFile(`${folder}/${name}`));
for (const { file, width, height } of JSON.parse(pictures))
  console.log(JSON.stringify(await predict({ data: await readFile(file), width, height })));
"""


def detector(random: np.random.Generator) -> tuple[list[Any], dict[str, np.ndarray], dict[str, list[Any]]]:
    """Boxes that overlap, around the cells of a grid, by a convolution."""
    rows, columns = HEIGHT // STRIDE, WIDTH // STRIDE
    centers = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(1, -1, 2) * STRIDE + STRIDE / 2
    constants = {
        "kernel": random.normal(0, 0.02, (5, 3, 1, 1)) * np.ones((8, 8)),
        "shape": np.array([0, 5, -1]),
        "centers": centers,
        "preference": random.normal(0, 3, (1, rows * columns, 3)),
        "sides": np.array([2, 3]),
        "seven": np.array(7.0),
        "nine": np.array(9.0),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["map"], strides=[STRIDE] * 2, pads=[2, 2, 2, 2]),
        helper.make_node("Reshape", ["map", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Split", ["rows", "sides"], ["size", "raw"], axis=2),
        helper.make_node("Add", ["raw", "preference"], ["logits"]),  # no two boxes are nearly as good
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Tanh", ["size"], ["between"]),
        helper.make_node("Mul", ["between", "seven"], ["growth"]),
        helper.make_node("Add", ["growth", "nine"], ["half"]),
        helper.make_node("Sub", ["centers", "half"], ["low"]),
        helper.make_node("Add", ["centers", "half"], ["high"]),
        helper.make_node("Concat", ["low", "high"], ["boxes"], axis=2),
    ]
    return nodes, constants, {"boxes": ["batch", rows * columns, 4], "scores": ["batch", rows * columns, 3]}


def instance_segmenter(
    random: np.random.Generator,
) -> tuple[list[Any], dict[str, np.ndarray], dict[str, list[Any]]]:
    """The detector, with a smooth mask for each of its boxes that is larger where the image has more of a colour."""
    nodes, constants, outputs = detector(random)
    _, anchors, _ = outputs["boxes"]
    place = (np.mgrid[0:28, 0:28] + 0.5) / 14 - 1
    shapes = random.normal(0, 0.4, (anchors, 2, 1, 1)) - place
    constants |= {
        "hills": 6 - 9 * (shapes**2).sum(1)[None],
        "first": np.array([0]),
        "second": np.array([1]),
        "last": np.array([2]),
    }
    nodes += [
        helper.make_node("Slice", ["raw", "first", "second", "last"], ["colour"]),
        helper.make_node("Unsqueeze", ["colour", "last"], ["height"]),
        helper.make_node("Add", ["hills", "height"], ["shapes"]),
        helper.make_node("Sigmoid", ["shapes"], ["masks"]),
    ]
    return nodes, constants, {**outputs, "masks": ["batch", anchors, 28, 28]}


def segmenter(random: np.random.Generator) -> tuple[list[Any], dict[str, np.ndarray], dict[str, list[Any]]]:
    constants = {"kernel": random.normal(0, 0.25, (3, 3, 7, 7))}
    nodes = [helper.make_node("Conv", ["image", "kernel"], ["logits"], pads=[3, 3, 3, 3])]
    return nodes, constants, {"logits": ["batch", 3, HEIGHT, WIDTH]}


def classifier(random: np.random.Generator) -> tuple[list[Any], dict[str, np.ndarray], dict[str, list[Any]]]:
    nodes, constants, _ = segmenter(random)
    nodes[0].output[0] = "map"
    nodes.append(helper.make_node("ReduceMax", ["map", "axes"], ["logits"], keepdims=0))
    return nodes, {**constants, "axes": np.array([2, 3])}, {"logits": ["batch", 3]}


NETWORKS = {
    Task.DETECTION: detector,
    Task.INSTANCE_SEGMENTATION: instance_segmenter,
    Task.SEMANTIC_SEGMENTATION: segmenter,
    Task.CLASSIFICATION: classifier,
}


@pytest.fixture
def bundle_of(tmp_path: Path) -> Make:
    return lambda task, resize: _bundle(tmp_path, task, resize)


def _bundle(root: Path, task: Task, resize: Resize) -> Bundle:
    nodes, constants, outputs = NETWORKS[task](np.random.default_rng(0))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, HEIGHT, WIDTH])
    written = [
        numpy_helper.from_array(value if value.dtype.kind == "i" else value.astype(np.float32), name)
        for name, value in constants.items()
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(nodes, "network", [image], infos, written)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    size = Size(width=WIDTH, height=HEIGHT)
    preprocessing = Preprocessing(size=size, resize=resize, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    fields = {"preprocessing": preprocessing, "postprocessing": Postprocessing(confidence_threshold=0.7)}
    return load_bundle(write_bundle(root, lambda folder: onnx.save(model, str(folder / "model.onnx")), task, **fields))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real photos: as they are, turned by EXIF, in grey and smaller than the network's input."""
    folder = tmp_path_factory.mktemp("pictures")
    turned, grey, small = folder / "turned.png", folder / "grey.png", folder / "small.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(PHOTOS[0]) as photo:
        photo.save(turned, exif=exif)
        photo.convert("L").save(grey)
        photo.resize((57, 31)).save(small)
    return [*PHOTOS, turned, grey, small]


@pytest.fixture(params=["Python", "JavaScript"])
def runner(request: pytest.FixtureRequest) -> Runner:
    """What predicts the pictures by the files of an unpacked package."""
    if request.param == "Python":
        return answers
    if shutil.which("node") is None or not RUNTIME.exists():
        pytest.skip(f"there is no Node.js, or no {RUNTIME}: make tools")
    return in_javascript


def unpacked(package: Path, folder: Path) -> Path:
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    return folder


def answers(folder: Path, pictures: list[Path]) -> dict[Path, dict[str, Any]]:
    code = RUN.replace("sys.argv[0]", repr(str(folder / "predict.py")))
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, pictures)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {Path(line.pop("image")): line for line in lines}


def in_javascript(folder: Path, pictures: list[Path]) -> dict[Path, dict[str, Any]]:
    """What the page's module says of the pixels, with the page's runtime."""
    given = []
    for picture in pictures:
        with Image.open(picture) as photo:
            image = ImageOps.exif_transpose(photo).convert("RGB").convert("RGBA")
        pixels = folder / f"{picture.name}.rgba"
        pixels.write_bytes(image.tobytes())
        given.append({"file": str(pixels), "width": image.width, "height": image.height})
    command = ["node", "--input-type=module", "-e", IN_NODE, str(RUNTIME), str(folder), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(pictures, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize(
    ("task", "resize"),
    [
        *((task, resize) for task in (Task.DETECTION, Task.INSTANCE_SEGMENTATION) for resize in Resize),
        (Task.SEMANTIC_SEGMENTATION, Resize.LETTERBOX),
        (Task.SEMANTIC_SEGMENTATION, Resize.CENTER_CROP),
        (Task.CLASSIFICATION, Resize.STRETCH),
    ],
)
def test_it_answers_as_fovea_does(
    task: Task, resize: Resize, runner: Runner, pictures: list[Path], bundle_of: Make, tmp_path: Path
) -> None:
    bundle = bundle_of(task, resize)
    folder = unpacked(write_package(bundle, tmp_path / "edge.zip"), tmp_path / "edge")
    theirs = runner(folder, pictures)
    ours = {file: each.to_dict(masks=True) for file, each in predict_files(bundle.path, pictures).files.items()}
    assert theirs.keys() == ours.keys()
    for file, expected in ours.items():
        compare(task, theirs[file], expected)
    assert len({json.dumps(answer) for answer in ours.values()}) == len(ours), "the answers differ between the pictures"
    if task in (Task.DETECTION, Task.INSTANCE_SEGMENTATION):
        assert max(len(answer["objects"]) for answer in ours.values()) > 5


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the folder's files, as `python -m http.server` is one."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


async def test_the_page_draws_what_fovea_finds_and_asks_no_other_place(
    browser: Browser, bundle_of: Make, tmp_path: Path
) -> None:
    if not RUNTIME.exists():
        pytest.skip(f"there is no {RUNTIME}: make tools")
    bundle, task = bundle_of(Task.INSTANCE_SEGMENTATION, Resize.LETTERBOX), Task.INSTANCE_SEGMENTATION
    folder = unpacked(write_package(bundle, tmp_path / "edge.zip"), tmp_path / "edge")
    (folder / "node_modules").symlink_to(RUNTIME.parents[2])
    with served(folder) as address:
        await browser.call("Page.navigate", url=address)
        await browser.until("!document.querySelector('#file').disabled")
        await browser.give("#file", PHOTOS[0])
        await browser.until("document.querySelector('#answer').textContent.startsWith('{')")
        answer = json.loads(str(await browser.value("document.querySelector('#answer').textContent")))
        asked = await browser.value("performance.getEntriesByType('resource').map((each) => each.name)")
    assert isinstance(asked, list)
    assert any(name.endswith(".wasm") for name in asked)
    assert all(name.startswith(address) for name in asked if not name.startswith("data:"))
    expected = predict_files(bundle.path, PHOTOS[:1]).files[PHOTOS[0]].to_dict()
    compare(task, answer, expected)
    size = await browser.value("[document.querySelector('#canvas').width, document.querySelector('#canvas').height]")
    assert size == [640, 480]


def compare(task: Task, answer: dict[str, Any], expected: dict[str, Any]) -> None:
    """Fails where an answer of a package is not that of `fovea predict -o json --masks`."""
    if task is Task.SEMANTIC_SEGMENTATION:
        pixels, known = ({each["class"]: each["pixels"] for each in found["classes"]} for found in (answer, expected))
        assert pixels == pytest.approx(known, abs=0.003 * answer["width"] * answer["height"])
        return
    if task is Task.CLASSIFICATION:
        one, other = ({each["class"]: each["score"] for each in found["classes"]} for found in (answer, expected))
        assert one == pytest.approx(other, abs=0.005)
        return
    left = list(answer["objects"])
    for known in expected["objects"]:
        left = [each for each in left if not _same(each, known)]
    # A grey level by which two ways of resizing differ may decide between two boxes that are as good.
    assert abs(len(answer["objects"]) - len(expected["objects"])) + len(left) <= 0.1 * len(expected["objects"])


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(
        one["class"] == other["class"]
        and abs(one["score"] - other["score"]) < 0.005
        and np.abs(np.subtract(one["box"], other["box"])).max() < 1
        and ("mask" in one) == ("mask" in other)
        and ("mask" not in one or _same_pixels(one, other))
    )


def _same_pixels(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two masks, each of as many pixels as is said, differ by a few at their edges at most."""
    height, width = other["mask"]["size"]
    mine, theirs = (mask_of(each["mask"], (width, height)) for each in (one, other))
    assert (mine.sum(), theirs.sum()) == (one["pixels"], other["pixels"])
    return bool((mine != theirs).sum() <= 2 + 0.02 * theirs.sum())


def test_every_file_has_its_digest_and_the_same_bundle_gives_the_same_package(bundle_of: Make, tmp_path: Path) -> None:
    bundle = bundle_of(Task.DETECTION, Resize.LETTERBOX)
    first, second = (write_package(bundle, tmp_path / f"{name}.zip") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    folder = unpacked(first, tmp_path / "edge")
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "README.md", "SHA256SUMS", "index.html", "labels.txt", "model.json", "model.onnx", "package.json",
        "predict.mjs", "predict.py", "requirements.txt",
    }  # fmt: skip
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert {line.split(":")[0] for line in done.stdout.splitlines()} == names - {"SHA256SUMS"}
    assert (folder / "labels.txt").read_text() == "red\ngreen\nblue\n"
    about = json.loads((folder / "model.json").read_text())
    assert (about["bundle"], about["outputs"]) == (bundle.digest, ["boxes", "scores"])


def test_a_signed_package_is_what_the_owner_of_the_key_made(
    bundle_of: Make, tmp_path: Path, keys: tuple[Path, Path], other_keys: tuple[Path, Path]
) -> None:
    bundle = bundle_of(Task.CLASSIFICATION, Resize.STRETCH)
    folder = unpacked(write_package(bundle, tmp_path / "edge.zip", keys[0]), tmp_path / "edge")
    verify_signature(folder, keys[1])
    assert f"--signature {SIGNATURE}" in (folder / "README.md").read_text()
    with pytest.raises(UntrustedBundle):
        verify_signature(folder, other_keys[1])
    (folder / "predict.py").write_text("print('another')")
    with pytest.raises(UntrustedBundle):
        verify_signature(folder, keys[1])
