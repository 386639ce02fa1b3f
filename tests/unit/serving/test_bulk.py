"""Many images become one Parquet file, whatever happens on the way."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from fovea_api.errors import InvalidInput
from fovea_serving import bulk
from fovea_serving.bulk import predict_to_parquet

COLOURS = ("red", "green", "blue")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """20 pictures of one colour each, and a file that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        image = np.zeros((20, 30, 3), np.uint8)
        image[..., 2 - number % 3] = 255  # OpenCV writes BGR
        cv2.imwrite(str(folder / f"{number:02}.png"), image)
    (folder / "99.png").write_bytes(b"broken")
    return folder


def test_each_file_has_a_row_and_an_interrupted_call_goes_on(
    bundle: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PART_FILES", 6)
    monkeypatch.setattr(bulk, "FILES_AT_ONCE", 3)
    target, seen = tmp_path / "out" / "results.parquet", 0

    def stop_after_ten(count: int) -> None:
        nonlocal seen
        seen += count
        if seen >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_parquet(bundle, [pictures], target, progress=stop_after_ten)
    assert not target.exists()
    with pytest.raises(InvalidInput, match="other options"):
        predict_to_parquet(bundle, [pictures], target, confidence=0.9)
    steps: list[int] = []
    assert predict_to_parquet(bundle, [pictures], target, progress=steps.append) == 21
    assert steps[0] == 6, "the part that was finished"
    assert sum(steps) == 21
    assert [file.name for file in target.parent.iterdir()] == [target.name]

    rows = pq.read_table(target).to_pylist()
    assert [Path(row["path"]).name for row in rows] == [*(f"{number:02}.png" for number in range(20)), "99.png"]
    assert [row["classes"][0]["class"] for row in rows[:-1]] == [COLOURS[number % 3] for number in range(20)]
    assert (rows[0]["width"], rows[0]["height"], rows[0]["error"]) == (30, 20, None)
    assert "no image" in rows[-1]["error"]
