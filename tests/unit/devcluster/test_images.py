"""Which images `devcluster load` takes when none is named, the room they need, and what the product's are made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DEVCLUSTER = ROOT / "devcluster"
SCRIPT = """
from cluster import images
from cluster.shell import Failure
try:
    print(*images.built())
except Failure as failure:
    print("failure:", failure)
"""


@pytest.mark.parametrize(
    ("built", "loaded", "told"),
    [
        (["operator", "serving", "trainer", "triton", "base"], "operator serving trainer triton", ""),
        (["trainer", "operator", "triton"], "operator trainer triton", "devcluster images serving builds it"),
        ([], "failure: no image is built; run devcluster images first", ""),
    ],
)
def test_those_that_are_built_are_loaded(tmp_path: Path, built: Sequence[str], loaded: str, told: str) -> None:
    blobs = tmp_path / "images" / "layout" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for name in built:
        (blobs / name).write_text("{}")
    names = {f"fovea.local/{name}:dev": f"sha256:{name}" for name in built}
    (tmp_path / "images" / "layout" / "names.json").write_text(json.dumps(names))
    environment = {**os.environ, "FOVEA_CACHE": str(tmp_path), "PYTHONPATH": str(DEVCLUSTER)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == loaded
    assert told in done.stderr
    assert bool(told) == bool(done.stderr)


@pytest.mark.parametrize(
    ("free", "said"),
    [
        (12 << 30, ""),
        (
            (12 << 30) - 1,
            "image a needs 12.9 GB on the disk of {state}, where 12.9 GB are free: make room there, or set "
            "FOVEA_CACHE to a folder on a larger disk",
        ),
    ],
)
def test_an_image_needs_room_for_itself_and_for_what_pods_write(tmp_path: Path, free: int, said: str) -> None:
    script = f"""
import shutil
from cluster import node
shutil.disk_usage = lambda folder: shutil._ntuple_diskusage(1 << 60, 0, {free})
try:
    node.need_room(8 << 30, "image a")
except node.Failure as failure:
    print(failure)
"""
    environment = {**os.environ, "FOVEA_CACHE": str(tmp_path), "PYTHONPATH": str(DEVCLUSTER)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said.format(state=tmp_path / "cluster")


@pytest.mark.parametrize("image", sorted(file.parent.name for file in ROOT.glob("images/*/Containerfile")))
def test_what_an_image_copies_is_there_and_not_kept_out(image: str) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for line in (ROOT / "images" / image / "Containerfile").read_text().splitlines()
        if line.startswith("COPY ") and not line.startswith("COPY --from")
        for source in line.split()[1:-1]
    ]
    assert [source for source in copied if source.split("/")[0] not in let_in or not (ROOT / source).exists()] == []
