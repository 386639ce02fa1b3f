"""Bundles as OCI images: a layer for each file, a plain tar with the file under `models/`.

That is where KServe expects a model, as an image volume too, so such an image can be mounted as it is; and a single
file can be read by itself: the manifest says which layer it is in. A layer that the registry has is not sent again.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import Any, BinaryIO, cast

import pyarrow as pa
from fovea_api.errors import CorruptData, InvalidInput
from pyarrow import fs
from pydantic import JsonValue

from fovea_store.errors import NotFound
from fovea_store.registry import MANIFEST_TYPE, Reference, Registry, digest_of

FOLDER = "models"
"""Folder of the image that the files are in."""
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
TITLE, CREATED = "org.opencontainers.image.title", "org.opencontainers.image.created"
SIZE, BUNDLE = "dev.fovea.file.bytes", "dev.fovea.bundle"
"""Annotations: the bytes of a layer's file, and the digest of the bundle that an image holds."""
TAG_SECONDS = 60.0
"""How long a tag is taken to name the same image, so that the files of a bundle are of one."""
IN_MEMORY_BYTES = 8 << 20
"""Of a layer that is read; larger ones lie in a temporary file meanwhile."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A file of an image.

    Args:
        path: Of the file, below `models/`.
        size: Its bytes.
        digest: Of the layer.
        bytes: Of the layer.
    """

    path: str
    size: int
    digest: str
    bytes: int

    def descriptor(self) -> dict[str, JsonValue]:
        """As it stands in the manifest."""
        annotations: dict[str, JsonValue] = {TITLE: self.path, SIZE: str(self.size)}
        return {"mediaType": LAYER_TYPE, "digest": self.digest, "size": self.bytes, "annotations": annotations}


@dataclass(frozen=True, slots=True)
class Image:
    """A bundle in a registry: its digest, files by path, the digest of the bundle and when it was pushed."""

    digest: str
    layers: Mapping[str, Layer]
    bundle: str
    created: datetime


def push_bundle(
    folder: Path, paths: Sequence[str], bundle: str, target: str, sent: Callable[[int], None] = lambda _: None
) -> str:
    """Pushes the files of a bundle, the manifest last; the URI with the image's digest.

    An image that holds the same files is left as it is, so pushing twice changes nothing.

    Args:
        folder: Of the bundle.
        paths: Its files, relative to it.
        bundle: Its digest.
        target: `oci://registry/repository:tag`.
        sent: Called with the bytes of each file that has arrived.
    """
    reference, path = Reference.parse(target)
    if path or reference.pinned:
        raise InvalidInput("this is no tag", target, "write oci://registry/repository:tag")
    registry = open_registry(reference.host, None)
    layers = []
    for name in paths:
        layers.append(_push_layer(registry, reference, folder, name))
        sent(layers[-1].size)
    config = _bytes_of({
        "architecture": "amd64",  # an image must name one; the files are for all
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    })  # fmt: skip
    if not registry.has_blob(reference, digest_of(config)):
        registry.put_blob(reference, digest_of(config), io.BytesIO(config))
    manifest: dict[str, JsonValue] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [layer.descriptor() for layer in layers],
    }
    there = registry.manifest(reference)
    if there is not None and manifest.items() <= there[1].items():
        return reference.at(there[0]).uri
    created = datetime.now(UTC).replace(microsecond=0).isoformat()
    manifest["annotations"] = {BUNDLE: bundle, CREATED: created}
    return reference.at(registry.put_manifest(reference, _bytes_of(manifest))).uri


def image_of(uri: str, auth_config: str | None = None) -> tuple[str, Image]:
    """The URI of an image by its digest, and what it holds. Raises NotFound, InvalidInput."""
    reference, _ = Reference.parse(uri)
    image = _read(open_registry(reference.host, auth_config), reference)
    return reference.at(image.digest).uri, image


def open_registry(host: str, auth_config: str | None) -> Registry:
    return Registry(host, auth_config)


class ImageFiles(fs.FileSystemHandler):  # type: ignore[misc]
    """The files of images, for reading, as pyarrow's file systems have them.

    Paths are `registry/repository:tag/path`. Nothing of a file is given before its layer has the digest that the
    manifest promises. Several threads may use one object.
    """

    def __init__(self, auth_config: str | None) -> None:
        self._auth_config = auth_config
        self._images: dict[Reference, tuple[float, Image]] = {}
        self._local = threading.local()

    def get_type_name(self) -> str:
        return "oci"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        reference, folder = Reference.parse(selector.base_dir)
        below = f"{folder}/" if folder else ""
        image = self._image(reference)
        found = [layer for path, layer in image.layers.items() if path.startswith(below)]
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        files, folders = [], set()
        for layer in found:
            first, _, rest = layer.path.removeprefix(below).partition("/")
            if rest:
                folders.add(f"{selector.base_dir}/{first}")
            if not rest or selector.recursive:
                files.append(_file(f"{selector.base_dir}/{layer.path.removeprefix(below)}", layer, image))
        return [*files, *(fs.FileInfo(path, fs.FileType.Directory) for path in sorted(folders))]

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        reference, name = Reference.parse(path)
        layer = self._image(reference).layers.get(name)
        if layer is None:
            raise FileNotFoundError(path)
        # It belongs to the file that is returned, which closes it.
        content = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115
        self._registry(reference.host).blob(reference, layer.digest, layer.bytes, cast(BinaryIO, content))
        content.seek(0)
        try:
            archive = tarfile.open(fileobj=content, mode="r:")  # noqa: SIM115
            member = archive.extractfile(f"{FOLDER}/{name}")
        except (tarfile.TarError, KeyError) as error:
            raise CorruptData(f"the layer does not hold {FOLDER}/{name}", path, "push the bundle again") from error
        if member is None:
            raise CorruptData(f"{FOLDER}/{name} is no file", path, "push the bundle again")
        return pa.PythonFile(member, mode="r")

    def _info(self, path: str) -> fs.FileInfo:
        reference, name = Reference.parse(path)
        try:
            image = self._image(reference)
        except NotFound:
            return fs.FileInfo(path, fs.FileType.NotFound)
        if name in image.layers:
            return _file(path, image.layers[name], image)
        is_folder = not name or any(known.startswith(f"{name}/") for known in image.layers)
        return fs.FileInfo(path, fs.FileType.Directory if is_folder else fs.FileType.NotFound)

    def _image(self, reference: Reference) -> Image:
        """What a reference names; a tag is looked up again after a while."""
        known = self._images.get(reference)
        if known is not None and (reference.pinned or time.monotonic() < known[0] + TAG_SECONDS):
            return known[1]
        image = _read(self._registry(reference.host), reference)
        self._images[reference] = (time.monotonic(), image)
        return image

    def _registry(self, host: str) -> Registry:
        """The connections of this thread."""
        known: dict[str, Registry] = self._local.__dict__.setdefault("registries", {})
        if host not in known:
            known[host] = open_registry(host, self._auth_config)
        return known[host]

    # --- What is not done through a file system: an image is pushed as a whole ---

    def _read_only(self, *_: object, **__: object) -> None:
        raise InvalidInput("single files are not written into an image", None, "fovea push BUNDLE oci://… makes one")

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = _read_only
    move = open_append_stream = open_output_stream = _read_only


def _read(registry: Registry, reference: Reference) -> Image:
    """What an image holds. Raises NotFound, InvalidInput."""
    found = registry.manifest(reference)
    if found is None:
        raise NotFound("there is no such image", reference.uri, "check repository and tag")
    digest, manifest = found
    try:
        annotations = cast(Mapping[str, str], manifest["annotations"])
        layers = [
            Layer(each["annotations"][TITLE], int(each["annotations"][SIZE]), each["digest"], each["size"])
            for each in cast(Sequence[Any], manifest["layers"])
        ]
        created = datetime.fromisoformat(annotations[CREATED])
        return Image(digest, {layer.path: layer for layer in layers}, annotations[BUNDLE], created)
    except (KeyError, TypeError, ValueError) as error:
        remedy = "push one: fovea push BUNDLE oci://…"
        raise InvalidInput(f"this is no image of a bundle: {error!r}", reference.uri, remedy) from error


def _file(path: str, layer: Layer, image: Image) -> fs.FileInfo:
    return fs.FileInfo(path, fs.FileType.File, size=layer.size, mtime=image.created)


def _push_layer(registry: Registry, reference: Reference, folder: Path, name: str) -> Layer:
    """The file as a tar, whose bytes depend on name and content alone."""
    with TemporaryFile(prefix="fovea-layer-") as layer:
        info = tarfile.TarInfo(f"{FOLDER}/{name}")
        info.size = (folder / name).stat().st_size
        with (folder / name).open("rb") as content, tarfile.open(fileobj=layer, mode="w") as archive:
            archive.addfile(info, content)
        size = layer.tell()
        layer.seek(0)
        digest = f"sha256:{hashlib.file_digest(layer, 'sha256').hexdigest()}"
        if not registry.has_blob(reference, digest):
            registry.put_blob(reference, digest, layer)
    return Layer(name, info.size, digest, size)


def _bytes_of(content: Mapping[str, JsonValue]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
