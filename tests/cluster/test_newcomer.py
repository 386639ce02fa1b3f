"""The first hour on a cluster, by the guide's own commands: from a folder of pictures to a model that is used."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import FOVEA, Demo, short_job
from tests.kube import ROOT

pytestmark = pytest.mark.timeout(3000)
CELLS = ROOT / "examples" / "data" / "bccd" / "BCCD"
CLASSES = ("Platelets", "RBC", "WBC")
TRANSFER_IMAGE = "fovea.local/trainer:dev"
"""Has sh and tar, as the usual busybox, which this cluster cannot pull."""


def write_yolo(folder: Path, train: int, validation: int) -> None:
    """The first images of the blood cells as a YOLO tree, a format in which they do not ship."""
    files = sorted((CELLS / "Annotations").glob("*.xml"))[: train + validation]
    for index, file in enumerate(files):
        split, tree = "train" if index < train else "val", ElementTree.parse(file)
        image, label = folder / "images" / split / f"{file.stem}.jpg", folder / "labels" / split / f"{file.stem}.txt"
        for each in (image, label):
            each.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CELLS / "JPEGImages" / image.name, image)
        width, height = (int(tree.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        label.write_text("".join(yolo_line(each, width, height) for each in tree.iter("object")))
    (folder / "data.yaml").write_text(yaml.safe_dump({"names": list(CLASSES)}))


def yolo_line(labelled: ElementTree.Element, width: int, height: int) -> str:
    left, top, right, bottom = (
        float(labelled.findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    box = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
    return " ".join(map(str, (CLASSES.index(labelled.findtext("name") or ""), *box))) + "\n"


def guide_commands() -> list[str]:
    page = (ROOT / "docs" / "guide" / "first-model.md").read_text()
    (block,) = re.findall(r"^```console\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return block.splitlines()


def test_from_a_folder_to_a_model_that_is_used(demo: Demo, tmp_path: Path) -> None:
    def run(command: str) -> str:
        command = command.replace("fovea ", f"{FOVEA} ", 1) if command.startswith("fovea ") else command
        done = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env=demo.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    write_yolo(tmp_path / "photos", train=32, validation=8)
    assert "read as YOLO for Detection" in run("fovea init photos")
    manifest = tmp_path / "photos.yaml"
    dataset, job = yaml.safe_load_all(manifest.read_text())
    job["spec"] |= {name: short_job(2, 0)["spec"][name] for name in ("input", "training", "compute", "runPolicy")}
    manifest.write_text(yaml.safe_dump_all([dataset, job]))

    namespace, push, *others = (each.replace("vision", demo.namespace) for each in guide_commands())
    assert "first-namespace.yaml" in namespace, "which the fixture has made under its own names"
    push += f" --image {TRANSFER_IMAGE}"
    assert "81 files copied" in run(push), "two for each image, and data.yaml"
    assert "81 were there" in run(push)
    *applied, pull = others
    shown = [run(command) for command in applied]
    assert "condition met" in shown[-1]
    bundle = Path(re.findall(r"^bundle  (\S+)  \(verified\)$", run(pull), flags=re.MULTILINE)[0])

    use = f"fovea predict {bundle} photos/images/val --confidence"
    assert "objects from a score of 0.05 on (as given)" in run(f"{use} 0.05")
    few, many = (json.loads(run(f"{use} {score} -o json")) for score in (0.5, 0.05))
    assert sum(map(objects, many.values())) > sum(map(objects, few.values()))
    assert "<html" in run(f"fovea report {bundle} --to report.html && cat report.html")


def objects(prediction: dict[str, object]) -> int:
    found = prediction["objects"]
    assert isinstance(found, list)
    return len(found)
