"""The bundles that a run's inputs name."""

from __future__ import annotations

from pathlib import Path

from fovea_api.run import BundleInput
from fovea_serving.bundle import COPY_AGAIN, Bundle, CorruptBundle, load_bundle
from fovea_store import StorePath


def fetch_input(source: BundleInput, folder: Path) -> Bundle:
    """The verified bundle in a local folder. Raises InvalidBundle, CorruptBundle, NotFound."""
    StorePath.parse(source.artifact).download_tree(folder)
    bundle = load_bundle(folder)
    if bundle.digest != source.digest:
        raise CorruptBundle(
            f"the manifest's digest is {bundle.digest}, not {source.digest}", source.artifact, COPY_AGAIN
        )
    return bundle
