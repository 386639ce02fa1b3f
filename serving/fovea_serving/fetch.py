"""From wherever a bundle is stored to a verified bundle on this machine."""

from __future__ import annotations

from pathlib import Path

from fovea_store import StorePath

from fovea_serving.bundle import Bundle, load_bundle


def fetch_bundle(uri: str, folder: Path, credentials: str | None = None, public_key: Path | None = None) -> Bundle:
    """A bundle with every file verified: read where it is on a file system, else copied below the folder first.

    One that must be signed is always copied: nobody can change it between its verification and its use.

    Args:
        uri: `s3://…`, `gs://…`, `pvc://claim/path` or a local path, of the bundle's directory.
        folder: Where a copy goes, into a directory of the bundle's name; nobody else may write there.
        credentials: See StorePath.
        public_key: Of whoever must have signed the bundle, see `load_bundle`.

    Raises:
        NotFound, AccessDenied, StoreUnavailable: the store does not give it.
        InvalidBundle, CorruptBundle, UntrustedBundle: it cannot be used.
    """
    source = StorePath.parse(uri, credentials)
    if source.is_local and public_key is None:
        return load_bundle(source.local_path())
    # A link to a directory called sha256-… must have that digest too.
    copy = folder / (source.local_path().resolve().name if source.is_local else source.name)
    source.download_tree(copy)
    return load_bundle(copy, public_key)
