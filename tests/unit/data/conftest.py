"""Real images in small numbers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from fovea_api.dataset import Recipe
from fovea_api.run import VersionInput
from fovea_trainer.data.build import BuildResult, build_dataset

sys.path.append(str(Path(__file__).parent))  # for dataset_support: test folders are no packages
sys.path.append(str(Path(__file__).parent / "oracles"))
from dataset_support import BCCD, Build


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """The first 24 images of BCCD in a folder that a test may change."""
    root = tmp_path / "voc"
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        (root / folder).mkdir(parents=True)
        for file in sorted((BCCD / folder).glob(f"*{suffix}"))[:24]:
            shutil.copy(file, root / folder)
    return root


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a version of a recipe given as a manifest's spec; keywords of build_dataset pass through."""

    def run(
        spec: Mapping[str, object],
        *,
        store: Path | str = tmp_path / "store",
        parent: BuildResult | None = None,
        workers: int = 1,
    ) -> BuildResult:
        given = parent and VersionInput(version=parent.digest, artifact=parent.artifact)
        work = tmp_path / f"work-{os.urandom(4).hex()}"
        return build_dataset(
            Recipe.model_validate(spec),
            name="d",
            store_root=str(store),
            parent=given,
            work_dir=work,
            workers=workers,
        )

    return run
