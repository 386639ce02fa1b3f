"""Digests of what a run reads beside what its spec names by digest: no result of other data is adopted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from fovea_api import bundle, dataset, trainingjob
from fovea_api.errors import InvalidInput
from fovea_api.run import RunSpec, RunType, read_recipe
from fovea_store import StorePath

from fovea_trainer.data.recordings import recordings_of
from fovea_trainer.data.sources import is_download, source_path
from fovea_trainer.results import Fingerprints, owner_folder
from fovea_trainer.training.base_weights import SUFFIXES

THREADS = 16
"""Files that are looked at at once; an object store is asked once for each."""

log = logging.getLogger(__name__)


def fingerprint(path: StorePath) -> str:
    """Digest of a file, or of all files below a folder: their names, sizes and contents.

    A content is its SHA-256 on a file system and the ETag in an object store, which changes with each write.
    Raises NotFound.
    """
    files = [path] if path.is_file() else [path / entry.path for entry in path.files()]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(THREADS) as pool:
        for file, tag in zip(files, pool.map(StorePath.tag, files), strict=True):
            digest.update(f"{file.uri.removeprefix(path.uri)!r} {tag}\n".encode())
    return f"sha256-{digest.hexdigest()}"


def fingerprints(spec: RunSpec) -> Fingerprints | None:
    """The fingerprint of each input that a run's spec names by its place. None: one of them cannot be read.

    What the spec names by digest (versions, bundles, files with their sha256) needs none.
    """
    try:
        return {name: fingerprint(path) for name, path in _inputs(spec)}
    except InvalidInput as error:
        log.info("no result is adopted: %s", error)  # the work itself says what is wrong
        return None


def _inputs(spec: RunSpec) -> Iterator[tuple[str, StorePath]]:
    if spec.type is RunType.DATASET_BUILD:
        build = read_recipe(spec.type, spec.recipe, dataset.Recipe)
        for source in build.sources:
            if source.live:
                yield f"sources/{source.name}", recordings_of(owner_folder(spec.store, spec.owner), source)
            elif source.captures is None and source.sha256 is None and not is_download(source):
                yield f"sources/{source.name}", source_path(source)
        if build.exclude is not None:
            yield "exclude", StorePath.parse(build.exclude.uri)
    elif spec.type is RunType.TRAINING and spec.inputs.base_weights is None:
        uri = read_recipe(spec.type, spec.recipe, trainingjob.Recipe).model.pretrained.uri
        if uri is not None:
            given = StorePath.parse(uri)
            yield "baseWeights", given if uri.endswith(SUFFIXES) else given / bundle.MANIFEST
