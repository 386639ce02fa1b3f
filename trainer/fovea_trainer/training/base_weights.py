"""The weights that training starts from, where these are not published ones: of a model bundle or a file in a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fovea_api.bundle import MANIFEST, BundleManifest
from fovea_api.run import BundleInput
from fovea_serving.bundle import (
    COPY_AGAIN,
    WEIGHTS,
    CorruptBundle,
    InvalidBundle,
    bundle_digest,
    file_digest,
    read_manifest,
    verify_file,
)
from fovea_store import NotFound, StorePath

from fovea_trainer.data.sources import without_secrets

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
"""Of files of weights; other URIs are of bundles."""


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """Weights in a local file, and what the lineage says of them.

    Args:
        file: A safetensors file or a plain state dict.
        digest: Of the bundle, or of the file where there is no bundle; `sha256-<64 hex>`.
        uri: Where they lay, without credentials.
        run: The run that made the bundle.
    """

    file: Path
    digest: str
    uri: str
    run: str | None = None


def fetch_base_weights(source: BundleInput | str, folder: Path) -> BaseWeights:
    """Copies the weights of a bundle, or the file of a URI, into a local folder.

    Raises:
        CorruptBundle: the weights or the manifest do not have the content that their digests promise.
        InvalidBundle: the bundle has no weights.
        NotFound: nothing lies there.
    """
    uri, digest = (source, None) if isinstance(source, str) else (source.artifact, source.digest)
    where = StorePath.parse(uri)
    folder.mkdir(parents=True, exist_ok=True)
    if not uri.endswith(SUFFIXES):
        manifest = _bundle(where, digest, folder)
        return BaseWeights(folder / WEIGHTS, bundle_digest(manifest), without_secrets(uri), manifest.lineage.run)
    file = folder / where.name
    where.download(file)
    return BaseWeights(file, f"sha256-{file_digest(file)}", without_secrets(uri))


def _bundle(where: StorePath, digest: str | None, folder: Path) -> BundleManifest:
    """The manifest of a bundle whose verified weights are in the folder then."""
    try:
        (where / MANIFEST).download(folder / MANIFEST)
    except NotFound as error:
        remedy = f"give the folder of a model bundle, or a file that ends in {', '.join(SUFFIXES)}"
        raise NotFound(f"there is no {MANIFEST}", without_secrets(where.uri), remedy) from error
    manifest = read_manifest(folder / MANIFEST)
    actual = bundle_digest(manifest)
    expected = digest or (where.name if where.name.startswith("sha256-") else actual)
    if actual != expected:
        raise CorruptBundle(f"the manifest's digest is {actual}, not {expected}", str(where / MANIFEST), COPY_AGAIN)
    entry = next((entry for entry in manifest.files if entry.path == WEIGHTS), None)
    if entry is None:
        raise InvalidBundle(f"names no {WEIGHTS}", str(where / MANIFEST), "give a bundle that Fovea has trained")
    (where / WEIGHTS).download(folder / WEIGHTS)
    verify_file(folder / WEIGHTS, entry, str(where / WEIGHTS))
    return manifest
