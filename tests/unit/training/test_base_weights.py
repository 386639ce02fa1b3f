"""Weights to start from: verified before they are used, and named in the lineage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fovea_api.errors import FoveaError
from fovea_api.run import BundleInput
from fovea_serving.bundle import WEIGHTS, CorruptBundle, InvalidBundle, file_digest, load_bundle
from fovea_trainer.local import train_manifest
from fovea_trainer.training.base_weights import fetch_base_weights
from pydantic import JsonValue
from synthetic import manifest

OTHER = "sha256-" + "0" * 64


def train(folder: Path, **model: JsonValue) -> Path:
    """The bundle of a small training."""
    folder.mkdir()
    model = {"architecture": "resnet18", "options": {"width": 0.125, "stem": "Small"}, **model}
    path = manifest(folder, {"train": 16, "validation": 8}, model=model, evaluation={"splits": ["validation"]})
    return Path(str(train_manifest(path, str(folder / "store")).artifact))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("first") / "job", pretrained={"weights": "None"})


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """Manifest and weights of the bundle in a folder that is not named after the digest."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("bundle.yaml", WEIGHTS):
        (folder / name).write_bytes((bundle / name).read_bytes())
    return folder


def test_the_lineage_tells_the_bundle_the_run_and_the_file_that_training_started_from(
    bundle: Path, tmp_path: Path
) -> None:
    first = load_bundle(bundle)
    second = load_bundle(train(tmp_path / "bundle", pretrained={"uri": f"file://{bundle}"}))
    lineage = second.manifest.lineage
    assert (lineage.base_weights, lineage.base_uri) == (first.digest, f"file://{bundle}")
    assert lineage.parent_run == first.manifest.lineage.run
    report = (second.path / "report.html").read_text()
    assert first.manifest.lineage.run in report
    assert re.search(r"(\d+) of \1 tensors of the network are those of file://", report)
    before = first.manifest.metrics.exported["validation/accuracy"]
    assert "Validation of the parent run" in report
    (row,) = re.findall(r"<tr><td>Accuracy</td>(.*?)</tr>", report)
    assert row.split("</td>")[1].endswith(f">{before:.4g}"), "its column is the second"

    file = bundle / WEIGHTS
    lineage = load_bundle(train(tmp_path / "file", pretrained={"uri": f"file://{file}"})).manifest.lineage
    assert (lineage.base_weights, lineage.parent_run) == (f"sha256-{file_digest(file)}", None)
    assert lineage.base_uri == f"file://{file}"


def test_a_bundle_is_taken_from_anywhere_by_its_digest(copy: Path, bundle: Path, tmp_path: Path) -> None:
    fetched = fetch_base_weights(BundleInput(digest=bundle.name, artifact=str(copy)), tmp_path / "work")
    assert fetched.file.read_bytes() == (bundle / WEIGHTS).read_bytes()
    assert fetched.digest == bundle.name


@pytest.mark.parametrize(
    ("change", "digest", "error", "words"),
    [
        ("weights", None, CorruptBundle, r"model\.safetensors: the content's SHA-256 is not .*\(copy the bundle again"),
        ("end", None, CorruptBundle, r"model\.safetensors: \d+ bytes instead of \d+ \(copy"),
        ("manifest", "own", CorruptBundle, r"bundle\.yaml: the manifest's digest is .*\(copy the bundle again"),
        (None, OTHER, CorruptBundle, r"bundle\.yaml: the manifest's digest is sha256-.*, not sha256-0"),
        ("entry", None, InvalidBundle, r"bundle\.yaml: names no model\.safetensors"),
        ("missing", None, FoveaError, r"copy: there is no bundle\.yaml \(give the folder of a model bundle, or a file"),
    ],
)
def test_what_is_not_what_its_digest_promises_is_refused(
    copy: Path,
    bundle: Path,
    tmp_path: Path,
    change: str | None,
    digest: str | None,
    error: type[FoveaError],
    words: str,
) -> None:
    weights, text = (copy / WEIGHTS).read_bytes(), (copy / "bundle.yaml").read_text()
    if change == "weights":
        (copy / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    elif change == "end":
        (copy / WEIGHTS).write_bytes(weights[:-1])
    elif change == "manifest":
        (copy / "bundle.yaml").write_text(text.replace("bestEpoch: ", "bestEpoch: 1"))
    elif change == "entry":
        (copy / "bundle.yaml").write_text(text.replace(WEIGHTS, "other"))
    elif change == "missing":
        (copy / "bundle.yaml").unlink()
    promised = bundle.name if digest == "own" else digest
    source = str(copy) if promised is None else BundleInput(digest=promised, artifact=str(copy))
    with pytest.raises(error, match=words):
        fetch_base_weights(source, tmp_path / "work")
