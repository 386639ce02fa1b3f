"""What the commands share that copy from and to the places that a cluster reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

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
