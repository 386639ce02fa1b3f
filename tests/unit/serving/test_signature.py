"""Signed bundles: a changed byte or another key is refused. Keys are made by openssl, as users make them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fovea_api.errors import InvalidInput
from fovea_serving.bundle import load_bundle
from fovea_serving.fetch import fetch_bundle
from fovea_serving.runtimes.ray_serve import ApplicationArgs, _fetch
from fovea_serving.runtimes.triton import TritonOptions, prepare
from fovea_serving.signature import SIGNATURE, UntrustedBundle, sign_bundle, verify_signature, verify_signed_file


def test_a_signed_bundle_is_loaded_by_its_key_and_without(signed: Path, keys: tuple[Path, Path]) -> None:
    assert load_bundle(signed, keys[1]).digest == load_bundle(signed).digest
    (signed / SIGNATURE).write_bytes(sign_bundle(signed, keys[0]))
    load_bundle(signed, keys[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: (bundle / "model.onnx").write_bytes(b"another"),
        lambda bundle: (bundle / "added.txt").write_text("more"),
        lambda bundle: (bundle / "evaluation" / "test.json").unlink(),
        lambda bundle: (bundle / "bundle.yaml").write_text((bundle / "bundle.yaml").read_text().replace("red", "read")),
        lambda bundle: (bundle / SIGNATURE).write_text("{}"),
        lambda bundle: (bundle / SIGNATURE).write_bytes((bundle / SIGNATURE).read_bytes().replace(b"A", b"B", 1)),
        lambda bundle: (bundle / SIGNATURE).unlink(),
    ],
    ids=["changed", "added", "removed", "manifest", "no signature's form", "forged", "unsigned"],
)
def test_a_bundle_that_is_not_what_was_signed_is_refused(
    signed: Path, keys: tuple[Path, Path], change: Callable[[Path], object]
) -> None:
    change(signed)
    with pytest.raises(UntrustedBundle):
        load_bundle(signed, keys[1])


def test_what_is_changed_after_the_verification_is_not_used(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    model = (signed / "model.onnx").read_bytes()
    fetched = fetch_bundle(f"file://{signed}", tmp_path / "private", public_key=keys[1])
    (signed / "model.onnx").write_bytes(b"another")
    assert fetched.model.read_bytes() == model
    assert fetched.path.name == signed.name, "whose digest was held against the name"
    with pytest.raises(UntrustedBundle):
        fetch_bundle(f"file://{signed}", tmp_path / "later", public_key=keys[1])


def test_another_key_is_refused(signed: Path, other_keys: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UntrustedBundle, match="does not hold"):
        verify_signature(signed, other_keys[1])
    (tmp_path / "cosign.pub").write_text("no key")
    with pytest.raises(InvalidInput, match="not a public key"):
        verify_signature(signed, tmp_path / "cosign.pub")


def test_a_file_is_verified_without_the_others(
    bundle: Path, keys: tuple[Path, Path], other_keys: tuple[Path, Path]
) -> None:
    content, signature = (bundle / "bundle.yaml").read_bytes(), sign_bundle(bundle, keys[0])
    verify_signed_file("bundle.yaml", content, signature, keys[1], "here")
    for name, text, by, key in (
        ("bundle.yaml", content.replace(b"red", b"read"), signature, keys[1]),
        ("bundle.yaml", b"", signature, keys[1]),
        ("added.yaml", content, signature, keys[1]),
        ("bundle.yaml", content, b"{}", keys[1]),
        ("bundle.yaml", content, sign_bundle(bundle, other_keys[0]), keys[1]),
        ("bundle.yaml", content, signature, other_keys[1]),
    ):
        with pytest.raises(UntrustedBundle, match="here"):
            verify_signed_file(name, text, by, key, "here")


def test_the_librarys_own_command_verifies_what_we_sign(signed: Path, keys: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    options = ["--signature", str(signed / SIGNATURE), "--public_key", str(keys[1])]
    done = subprocess.run(command + options, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("runtime", ["RayServe", "Triton"])
def test_what_serves_a_deployment_refuses_what_its_key_has_not_signed(
    bundle: Path, keys: tuple[Path, Path], other_keys: tuple[Path, Path], tmp_path: Path, runtime: str
) -> None:
    """The replica of each runtime, by the arguments that the operator gives it."""

    def load(key: Path | None) -> None:
        uri = f"file://{bundle}"
        if runtime == "Triton":
            return prepare(uri, tmp_path / "repository", TritonOptions(), None, key)
        args = ApplicationArgs.model_validate({"bundle": uri, "publicKey": str(key) if key is not None else None})
        assert _fetch(args, tmp_path / "fetched").digest == bundle.name

    load(None)
    with pytest.raises(UntrustedBundle, match="is not signed"):
        load(keys[1])
    (bundle / SIGNATURE).write_bytes(sign_bundle(bundle, keys[0]))
    load(keys[1])
    with pytest.raises(UntrustedBundle, match="does not hold"):
        load(other_keys[1])


def test_by_hand(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    def fovea(*words: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("fovea")
        return subprocess.run([program, *words], capture_output=True, text=True, timeout=300)

    unsigned = fovea("verify", str(bundle), "--key", str(keys[1]))
    assert unsigned.returncode == 1
    assert "is not signed" in unsigned.stderr
    assert fovea("sign", str(bundle), "--key", str(keys[0])).returncode == 0
    whole = fovea("verify", str(bundle), "--key", str(keys[1]))
    assert "the signature holds" in whole.stdout, whole.stderr
