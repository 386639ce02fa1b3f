"""What the commands share that copy from and to the places that a cluster reads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fovea_cli.progress import bytes_progress

if TYPE_CHECKING:
    from fovea_store.transfer import Remote


def claim_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options --namespace and --image, for claims that are reached through kubectl."""
    for option in (
        click.option(
            "--image",
            help="Image of the pod that mounts a claim; any with sh, tar, find and stat.  [default: busybox]",
        ),
        click.option("--namespace", "-n", help="Namespace of a claim; absent: kubectl's own."),
    ):
        command = option(command)
    return command


@contextmanager
def open_remote(uri: str, namespace: str | None, image: str | None) -> Iterator[Remote]:
    """The folder behind a URI: of a store, or of a claim, which outside of a cluster is reached through a pod."""
    from fovea_store import StorePath
    from fovea_store.claims import IMAGE, ClaimFolder, is_outside
    from fovea_store.transfer import StoreFolder

    if is_outside(uri):
        with ClaimFolder(uri, namespace, image or IMAGE) as claim:
            yield claim
    else:
        yield StoreFolder(StorePath.parse(uri))


def bundle_folder(bundle: str, namespace: str | None, image: str | None) -> Path:
    """A bundle's folder on this machine; that of a URI is copied into the cache, as far as it is not there yet.

    What loads the bundle verifies it: the copy has the name of the original, which is its digest.
    """
    from fovea_store.filesystems import split_uri
    from fovea_store.transfer import plan_pull

    if not split_uri(bundle)[0]:
        if not Path(bundle).is_dir():
            raise click.BadParameter(f"Directory {bundle!r} does not exist.", param_hint="BUNDLE")
        return Path(bundle)
    if bundle.startswith("oci://"):  # a tag may name another bundle tomorrow
        from fovea_store.images import image_of

        bundle, _ = image_of(bundle)
    parent, _, name = bundle.rstrip("/").rpartition("/")
    folder = cache() / "bundles" / hashlib.sha256(parent.encode()).hexdigest()[:16] / name
    with open_remote(bundle, namespace, image) as remote:
        plan = plan_pull(remote, folder, bundle)
        with bytes_progress("fetched", plan.bytes) as received:
            remote.receive(folder, plan.paths, received)
    return folder


def cache() -> Path:
    """Folder of this user for what can be fetched again: $FOVEA_CACHE, else fovea in that of the system."""
    system = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FOVEA_CACHE") or Path(system) / "fovea")
