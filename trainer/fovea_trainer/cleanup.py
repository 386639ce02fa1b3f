"""The work of a Cleanup run: deletes from an object's folder in the store what is kept no more.

What makes a version, a bundle or a result whole goes first, so that a cleanup that was cut off leaves nothing that
reads as whole; doing it again deletes the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from fovea_api import bundle, engine
from fovea_api.errors import InvalidInput
from fovea_api.run import CleanupRecipe, Progress, RunOwner
from fovea_api.version import MANIFEST
from fovea_store import StorePath

from fovea_trainer.data.version import stored_versions, version_folders
from fovea_trainer.results import RESULT, owner_folder

log = logging.getLogger(__name__)


def clean_up(owner: RunOwner, store: str, recipe: CleanupRecipe, report: Callable[[Progress], None]) -> tuple[str, ...]:
    """Deletes what the recipe does not keep; gives the dataset versions that are left, newest first.

    A recipe that keeps nothing deletes the owner's whole folder. Any other deletes dataset versions alone: the
    complete ones that are kept by neither number nor name, and what is left of half-built or half-deleted ones, so
    no build of the Dataset may be at work meanwhile.

    Raises:
        InvalidInput: the owner's folder is a link to somewhere else.
        Retryable: the store failed; what is gone by then stays gone.
    """
    folder = owner_folder(store, owner)
    _refuse_link(folder, StorePath.parse(store))
    if not recipe.keep_newest and not recipe.keep:
        report(Progress(stage="Deleting", message=f"deleting {folder}"))
        for path in _commits(folder):
            (folder / path).delete()
        folder.delete()
        log.info("deleted %s", folder)
        return ()
    complete = stored_versions(folder)
    kept = {*complete[: recipe.keep_newest], *recipe.keep}
    _delete_versions(folder, [name for name in version_folders(folder) if name not in kept], report)
    return tuple(name for name in complete if name in kept)


def _delete_versions(folder: StorePath, names: Sequence[str], report: Callable[[Progress], None]) -> None:
    for number, name in enumerate(names):
        percent = 100 * number // len(names)
        report(Progress(stage="Deleting", percent=percent, message=f"deleting version {number + 1} of {len(names)}"))
        (folder / name / MANIFEST).delete()
        (folder / name).delete()
        log.info("deleted %s", folder / name)


def _commits(folder: StorePath) -> Iterator[str]:
    """The files that make something below an object's folder whole: results first, for they speak of the others."""
    yield from (f"runs/{name}/{RESULT}" for name in (folder / "runs").folders())
    yield from (f"{name}/{MANIFEST}" for name in version_folders(folder))
    yield from (f"bundles/{name}/{bundle.MANIFEST}" for name in (folder / "bundles").folders())
    engines = folder / engine.ENGINES
    for model in engines.folders():
        yield from (f"{engine.ENGINES}/{model}/{key}/{engine.MANIFEST}" for key in (engines / model).folders())


def _refuse_link(folder: StorePath, store: StorePath) -> None:
    if folder.is_local:
        real, root = folder.local_path().resolve(), store.local_path().resolve()
        if real != root / folder.local_path().relative_to(store.local_path()):
            raise InvalidInput(f"the folder is a link to {real}", folder.uri, "remove the link and what it leads to")
