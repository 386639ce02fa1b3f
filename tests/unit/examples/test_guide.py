"""The guide's commands run as they are written, on pictures of the tree that it shows; its files are what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guide"
PARTS = ("crds", "operator", "trainer", "serving", "store", "cli")
SMALL = "  architecture: resnet18\n    options: {width: 0.125}\n    pretrained: {weights: None}\n"
"""What takes the place of the suggested network, so that the test takes seconds."""


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (GUIDE / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def run(script: str, folder: Path, program: str = "bash", variables: Mapping[str, str] | None = None) -> str:
    shim = folder / ".bin"
    shim.mkdir(exist_ok=True)
    (shim / "fovea").write_text(f'#!/bin/sh\nexec {sys.executable} -c "from fovea_cli.main import main; main()" "$@"\n')
    (shim / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for command in ("fovea", "python"):
        (shim / command).chmod(0o755)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in PARTS),
        "PATH": f"{shim}{os.pathsep}{os.environ['PATH']}",
        **(variables or {}),
    }
    command = ["bash", "-euo", "pipefail", "-c", script] if program == "bash" else [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def draw_photos(folder: Path) -> None:
    """Ginger cats and grey dogs, as the guide's first tree has them."""
    random = np.random.default_rng(5)
    for split, count in (("train", 12), ("val", 8)):
        for index in range(count):
            name, tint = (("cat", (40, 110, 220)), ("dog", (120, 120, 120)))[index % 2]
            image = (random.normal(0, 25, (48, 64, 3)) + tint).clip(0, 255).astype(np.uint8)
            file = folder / split / name / f"{index:03}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), image)


@pytest.mark.timeout(900)
def test_a_newcomers_first_hour(tmp_path: Path) -> None:
    """Folder, init, preview, train, list, predict, evaluate, pull; then the Python of `Use the model`."""
    draw_photos(tmp_path / "photos")
    init, *rest = blocks("first-model.md", "sh")
    assert "read as ImageFolder for Classification" in run(init, tmp_path)
    manifest = tmp_path / "photos.yaml"
    text = manifest.read_text()
    assert "efficientnet-lite0" in text
    manifest.write_text(re.sub(r"  architecture: efficientnet-lite0.*\n", SMALL, text))
    printed = run("\n".join(rest), tmp_path)
    assert (tmp_path / "seen.png").is_file()
    assert "validation/accuracy" in printed
    assert "all/accuracy" in printed
    assert len(list((tmp_path / "drawn").iterdir())) == 8
    (bundle,) = (tmp_path / "fovea-store").glob("trainingjob/photos/bundles/sha256-*")
    newer = json.loads(run("fovea train -f photos.yaml --set training.epochs=1 -o json", tmp_path))["artifact"]
    assert run(f"{rest[-1]}echo $BUNDLE", tmp_path).splitlines()[-1] == newer
    assert run(f"fovea pull {bundle} --to model", tmp_path).endswith("(verified)\n")
    given = {"BUNDLE": str(tmp_path / "model"), "IMAGE": str(next((tmp_path / "photos/val/cat").iterdir()))}
    with_fovea, without, _ = blocks("use-the-model.md", "python")
    names = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    assert "'classes': [{'class': " in run(names + with_fovea, tmp_path, "python")
    assert run(names + without, tmp_path, "python").strip() in ("cat", "dog")


def test_a_program_draws_a_dataset(tmp_path: Path) -> None:
    """By hand its manifest is refused until somebody says where the program has written."""
    (program,), (manifest,), (commands,) = (blocks("generator.md", each) for each in ("python", "yaml", "sh"))
    (tmp_path / "draw.py").write_text(program)
    (tmp_path / "shapes.yaml").write_text(manifest)
    refused = run("! fovea dataset build -f shapes.yaml 2>&1", tmp_path)
    assert "spec.sources[simulated].generator: programs are run on a cluster only" in refused
    assert "Traceback" not in refused
    assert re.search(r"circle +30 +30\nsquare +30 +30", run(commands, tmp_path))
    text = manifest.replace("metadata: {name: shapes}", "metadata: {name: shapes, annotations: {%s: drawn}}")
    (tmp_path / "shapes.yaml").write_text(text % "local.fovea.dev/simulated")
    assert "it can be built" in run("fovea dataset check shapes.yaml", tmp_path)


def test_the_first_namespace_is_one_file_of_known_kinds() -> None:
    objects = list(yaml.safe_load_all((GUIDE / "first-namespace.yaml").read_text()))
    assert [each["kind"] for each in objects] == ["Namespace", "Secret", "PersistentVolumeClaim"]
    namespace, secret, claim = objects
    assert namespace["metadata"]["annotations"]["fovea.dev/store-secret"] == secret["metadata"]["name"]
    assert claim["metadata"]["name"] == "datasets"
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= secret["stringData"].keys()


@pytest.mark.parametrize("page", sorted(path.name for path in GUIDE.glob("*.md")))
def test_links_of_the_guide_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (GUIDE / page).read_text()):
        assert link.startswith("https://") or (GUIDE / link).exists(), link
