"""Red and blue pictures, the manifest to train on them, and what one training of it left."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from fovea_cli.main import cli

sys.path.append(str(Path(__file__).parent))  # for cli_support: test folders are no packages
from cli_support import Fovea, Trained, write_manifest


@pytest.fixture(scope="session")
def fovea() -> Fovea:
    """Runs a command as the console script does; an exception that would become a traceback fails the test."""

    def run(*words: str | Path) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="fovea")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pictures to train, 8 to validate and 8 to test."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("validation", 8), ("test", 8)):
        for index in range(count):
            image = random.integers(0, 90, (32, 32, 3)).astype(np.uint8)
            colour, channel = (("red", 2), ("blue", 0))[index % 2]  # OpenCV writes BGR
            image[..., channel] += 150
            file = folder / split / colour / f"{split}-{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return folder


@pytest.fixture(scope="session")
def trained(fovea: Fovea, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    manifest = write_manifest(folder / "colours.yaml", pictures)
    done = fovea("train", "-f", manifest, "--store", folder / "store", "--output", "json")
    assert done.exit_code == 0, done.output
    return Trained(manifest, pictures, folder / "store", json.loads(done.stdout))
