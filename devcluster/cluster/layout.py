"""An OCI layout with uncompressed layers, filled from buildah's storage.

`buildah push` reads, compresses and hashes every layer again on each push: minutes for the 7 GB with torch. Here a
layer is written once, as a plain tar of its overlay folder, and found again by its id in the storage.
"""

import base64
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .settings import IMAGES
from .shell import Failure, write

_ROOT = IMAGES / "layout"
_BLOBS = _ROOT / "blobs" / "sha256"
_NAMES = _ROOT / "names.json"  # image reference -> digest of its manifest
_LAYERS = _ROOT / "layers.json"  # id of a layer in buildah's storage -> digest of its tar
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def add(image: str, storage: Path) -> None:
    """Writes the image of buildah's (overlay) storage to the layout and removes blobs that no image uses any more."""
    _BLOBS.mkdir(parents=True, exist_ok=True)
    record = next(item for item in _read(storage / "overlay-images" / "images.json") if image in item.get("names", ()))
    parents = {item["id"]: item.get("parent") for item in _read(storage / "overlay-layers" / "layers.json")}
    known: dict[str, str] = _read(_LAYERS) if _LAYERS.exists() else {}
    chain: list[str] = []
    layer = record["layer"]
    while layer:
        chain.insert(0, layer)
        layer = parents[layer]
    for layer in chain:
        if layer not in known or not blob(known[layer]).exists():
            known[layer] = _write_layer(storage / "overlay" / layer / "diff")
            write(_LAYERS, json.dumps(known))
    key = base64.b64encode(f"sha256:{record['id']}".encode()).decode()
    config = _read(storage / "overlay-images" / record["id"] / f"={key}")
    layers = [known[layer] for layer in chain]
    config["rootfs"] = {"type": "layers", "diff_ids": layers}  # uncompressed: a layer's digest is its diff id
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _describe(_CONFIG, _write_json(config)),
        "layers": [_describe(_LAYER, digest) for digest in layers],
    }
    names = {**_names(), image: _write_json(manifest)}
    write(_NAMES, json.dumps(names))
    used = {blob(digest) for name in names.values() for digest in closure(name)}
    for path in _BLOBS.iterdir():
        if path not in used:
            path.unlink()


def find(image: str) -> str:
    """Digest of the image's manifest."""
    names = _names()
    if image not in names:
        raise Failure(f"{image} is not built; run devcluster images first")
    return names[image]


def has(image: str) -> bool:
    return image in _names()


def _names() -> dict[str, str]:
    names: dict[str, str] = _read(_NAMES) if _NAMES.exists() else {}
    return {image: digest for image, digest in names.items() if blob(digest).exists()}


def closure(manifest: str) -> list[str]:
    """Digests of the manifest and of everything that it names."""
    content = _read(blob(manifest))
    return [manifest, content["config"]["digest"], *(layer["digest"] for layer in content["layers"])]


def blob(digest: str) -> Path:
    return _BLOBS / digest.removeprefix("sha256:")


def archive(image: str, digests: list[str], out: IO[bytes]) -> None:
    """Writes an OCI archive of the image that holds only the given blobs."""
    manifest = find(image)
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                **_describe(_MANIFEST, manifest),
                "annotations": {
                    "io.containerd.image.name": image,
                    "org.opencontainers.image.ref.name": image.rpartition(":")[2],
                },
            }
        ],
    }
    with tarfile.open(fileobj=out, mode="w|", bufsize=1 << 20) as tar:
        for name, text in (
            ("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"})),
            ("index.json", json.dumps(index)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        for digest in digests:
            tar.add(blob(digest), f"blobs/sha256/{blob(digest).name}")


def share(digests: list[str], store: Path) -> None:
    """Lets the layout and containerd's store hold the same files: a layer of 7 GB lies on the disk once less."""
    for digest in digests:
        ours, theirs = blob(digest), store / blob(digest).name
        if theirs.exists() and theirs.stat().st_size == ours.stat().st_size:
            part = ours.with_suffix(".part")
            part.unlink(missing_ok=True)
            os.link(theirs, part)
            part.rename(ours)


class _Hashed:
    """A file that knows the digest of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sum = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self.file.write(data)


def _write_layer(folder: Path) -> str:
    """Writes an overlay's upper folder as the tar of a layer; its digest."""
    part = _BLOBS / ".layer.part"
    with open(part, "wb") as file:
        hashed = _Hashed(file)
        with tarfile.open(fileobj=hashed, mode="w|", bufsize=1 << 20, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            for entry, path in _entries(tar, folder):
                if entry.isreg() and entry.size:
                    with open(path, "rb") as content:
                        tar.addfile(entry, content)
                else:
                    tar.addfile(entry)
    digest = f"sha256:{hashed.sum.hexdigest()}"
    part.rename(blob(digest))
    return digest


def _entries(tar: tarfile.TarFile, folder: Path) -> Iterator[tuple[tarfile.TarInfo, Path]]:
    for top, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(top, name)
            inside = path.relative_to(folder)
            status = path.lstat()
            if stat.S_ISSOCK(status.st_mode):
                continue
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:  # overlay's mark of a removed file
                yield tarfile.TarInfo(str(inside.with_name(f".wh.{name}"))), path
                continue
            entry = tar.gettarinfo(path, str(inside))
            entry.uname = entry.gname = ""
            yield entry, path
            if entry.isdir() and "trusted.overlay.opaque" in os.listxattr(path):  # ... of a folder made anew
                yield tarfile.TarInfo(str(inside / ".wh..wh..opq")), Path(os.devnull)


def _describe(media_type: str, digest: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": blob(digest).stat().st_size}


def _write_json(content: object) -> str:
    text = json.dumps(content, separators=(",", ":"))
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    write(blob(digest), text)
    return digest


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
