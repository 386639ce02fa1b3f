"""Whose a store is: a file at its root names the namespace that writes there, and nobody else does."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from fovea_api.errors import CorruptData, FoveaError, Recoverable

from fovea_store.errors import NotFound
from fovea_store.path import StorePath

OWNER = "owner.json"
DEPTH, FOLDERS = 2, 1000
"""Levels, and folders at most, below a new store in which stores of others are looked for, once."""

log = logging.getLogger(__name__)


class StoreOwnedByAnother(Recoverable):
    """The store belongs to another namespace, another cluster, or to runs by hand."""


@dataclass(frozen=True, slots=True)
class StoreOwner:
    """Who writes to a store.

    Args:
        cluster: uid of the cluster's namespace kube-system; `local` for runs by hand.
        namespace: uid of the namespace; `hand` for runs by hand.
        name: What people call it.
    """

    cluster: str
    namespace: str
    name: str

    @property
    def id(self) -> str:
        """What tells it from others, and what the word of adoption is."""
        return f"{self.cluster}/{self.namespace}"


BY_HAND = StoreOwner("local", "hand", "runs by hand")
"""All runs by hand, on whatever machine: a store of their own can be shared by those who know its credentials."""


def claim_store(root: StorePath, owner: StoreOwner, adopt: str = "", *, write: bool = True) -> None:
    """Makes sure that a store is the owner's, before anything is read or written there.

    A store that is nobody's yet becomes the owner's; one of another is taken over only where `adopt` is that one's id.
    The same goes for stores around this one, and where it is new for those in it: who deletes in one deletes in both.

    Args:
        root: Root of the store.
        owner: Who is about to work there.
        adopt: Id of the owner that gives the store away.
        write: Whether a store that is nobody's is marked; else it is left as it is.

    Raises:
        StoreOwnedByAnother: with the command that adopts it.
        CorruptData: the file that names the owner cannot be read.
    """
    known = read_owner(root)
    new = known is None and write
    for place, other in ((root, known), *_neighbours(root, below=new)):
        if other is not None and other.id not in (owner.id, adopt):
            raise _refusal(root, place, other, owner)
    if not new and (known is None or known.id == owner.id):
        return
    if known is not None:
        log.info("the store %s of %s (%s) is adopted", root, known.name, known.id)
    content = {"cluster": owner.cluster, "namespace": owner.namespace, "name": owner.name}
    (root / OWNER).write_text(json.dumps(content, indent=1))
    if (written := read_owner(root)) is not None and written.id != owner.id:  # somebody else was faster
        raise _refusal(root, root, written, owner)


def read_owner(root: StorePath) -> StoreOwner | None:
    """Who a store belongs to; None: nobody yet. Raises CorruptData."""
    file = root / OWNER
    try:
        content = json.loads(file.read_text())
        return StoreOwner(str(content["cluster"]), str(content["namespace"]), str(content["name"]))
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"the owner of the store cannot be read: {error}", file.uri, "delete the file") from None


def _neighbours(root: StorePath, below: bool) -> Iterator[tuple[StorePath, StoreOwner | None]]:
    """The stores around this one and, if asked for, in it, with their owners, as far as they can be seen."""
    for place in (*root.parents(), *(islice(_folders_below(root, DEPTH), FOLDERS) if below else ())):
        with contextlib.suppress(FoveaError):  # the credentials may be good for this store alone
            yield place, read_owner(place)


def _folders_below(place: StorePath, depth: int) -> Iterator[StorePath]:
    names: list[str] = []
    with contextlib.suppress(FoveaError):
        names = place.folders()
    for name in names if depth else ():
        yield place / name
        yield from _folders_below(place / name, depth - 1)


def _refusal(root: StorePath, place: StorePath, known: StoreOwner, owner: StoreOwner) -> StoreOwnedByAnother:
    """`place`: the store that is another's: this one, one around it or one in it."""
    if owner == BY_HAND:
        remedy = f"give another --store; or take it over with --adopt {known.id}, and that one may write there no more"
    else:
        remedy = (
            "give this namespace a store of its own by the annotation fovea.dev/store; or, if the other is no more, "
            f"take it over: kubectl annotate namespace {owner.name} fovea.dev/adopt={known.id}"
        )
    whose = known.name if known == BY_HAND else f"namespace {known.name} ({known.id})"
    which = "the store"
    if place != root:
        which = f"the store {place}, which lies {'in' if place.uri.startswith(root.uri) else 'around'} this one,"
    return StoreOwnedByAnother(f"{which} belongs to {whose}", root.uri, remedy)
