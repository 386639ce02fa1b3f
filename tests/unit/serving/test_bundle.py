"""A bundle is used only if every byte is what its manifest promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fovea_api.errors import FoveaError
from fovea_serving.bundle import CorruptBundle, InvalidBundle, bundle_digest, load_bundle

Edit = Callable[[Path, Callable[[dict], None]], Path]


def test_a_whole_bundle_is_loaded(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.digest == bundle.name == bundle_digest(loaded.manifest)
    assert loaded.manifest.classes == ("red", "green", "blue")
    assert loaded.model.is_file()


def test_the_digest_does_not_know_when_the_bundle_was_written(bundle: Path) -> None:
    manifest = load_bundle(bundle).manifest
    later = manifest.model_copy(update={"created_at": manifest.created_at.replace(year=2030)})
    other = manifest.model_copy(update={"classes": ("red", "green", "violet")})
    assert bundle_digest(later) == bundle_digest(manifest) != bundle_digest(other)


@pytest.mark.parametrize("position", [0, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.onnx", "evaluation/test.json"])
def test_a_flipped_bit_is_found(bundle: Path, name: str, position: float) -> None:
    file = bundle / name
    data = bytearray(file.read_bytes())
    data[int(len(data) * position)] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptBundle, match=name) as error:
        load_bundle(bundle)
    assert error.value.remedy


def test_a_cut_off_file_is_found(bundle: Path) -> None:
    file = bundle / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptBundle, match=r"model\.onnx.*bytes instead of"):
        load_bundle(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "evaluation/test.json").unlink()
    with pytest.raises(CorruptBundle, match=r"test\.json.*missing"):
        load_bundle(bundle)


def test_a_changed_manifest_does_not_have_the_folders_digest(bundle: Path) -> None:
    file = bundle / "bundle.yaml"
    file.write_text(file.read_text().replace("- green", "- violet"))
    with pytest.raises(CorruptBundle, match="not the directory's name"):
        load_bundle(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match=r"bundle\.yaml: no such file"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_schema_version_is_refused(bundle: Path, edit: Edit, version: object) -> None:
    folder = edit(bundle, lambda content: content.update(schemaVersion=version))
    with pytest.raises(InvalidBundle, match="schemaVersion"):
        load_bundle(folder)


@pytest.mark.parametrize("path", ["a/../../secret", "evaluation/../../secret", "../secret", "/etc/passwd", "a\\b"])
def test_a_path_out_of_the_bundle_is_refused(bundle: Path, edit: Edit, path: str) -> None:
    (bundle.parent / "secret").write_text("{}")
    folder = edit(bundle, lambda content: content["files"].append({"path": path, "bytes": 2, "sha256": "0" * 64}))
    with pytest.raises(InvalidBundle):
        load_bundle(folder)


def test_a_link_out_of_the_bundle_is_refused(bundle: Path) -> None:
    target = bundle.parent / "elsewhere.json"
    (bundle / "evaluation/test.json").rename(target)
    (bundle / "evaluation/test.json").symlink_to(target)
    with pytest.raises(InvalidBundle, match="outside of the bundle"):
        load_bundle(bundle)


def test_a_bundle_without_a_model_is_refused(bundle: Path, edit: Edit) -> None:
    folder = edit(bundle, lambda content: content.update(files=content["files"][:1]))
    with pytest.raises(InvalidBundle, match=r"model\.onnx"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "a: [", "!!python/object/apply:os.system ['true']", "schemaVersion: 1", "\xff\xfe\x00", "a: &a [*a]"],
)
def test_a_manifest_of_nonsense_is_refused(bundle: Path, text: str) -> None:
    (bundle / "bundle.yaml").write_bytes(text.encode("latin1"))
    with pytest.raises(FoveaError, match=r"bundle\.yaml"):
        load_bundle(bundle)
