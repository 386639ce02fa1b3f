"""Loading a model bundle: nothing is used before its digest is verified, and no pickle is ever read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml
from fovea_api.bundle import MANIFEST, BundleFile, BundleManifest
from fovea_api.errors import CorruptData, InvalidInput, problems
from fovea_api.profile import PROFILE, ReferenceProfile
from fovea_api.run import digest_of
from pydantic import ValidationError

from fovea_serving.pipeline.golden import ANSWERS
from fovea_serving.signature import verify_signature

MODEL = "model.onnx"
"""The model in floating point, which every bundle has."""
MODELS: Mapping[str, str] = {"FP32": MODEL, "INT8": "model.int8.onnx"}
"""Files of the model by the arithmetic of its weights and activations."""
MODEL_WITH_NMS = "model.nms.onnx"
"""The model with non-maximum suppression in its graph, for programs without Fovea; nothing here runs it."""
WEIGHTS = "model.safetensors"
REPORT = "report.html"

COPY_AGAIN = "copy the bundle again from where it was made"
SCHEMA_VERSION = 1


class InvalidBundle(InvalidInput):
    """The directory is no bundle, or one that this version cannot read."""


class CorruptBundle(CorruptData):
    """A file of the bundle does not have the content that its digest promises."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle in a local directory."""

    path: Path
    manifest: BundleManifest
    digest: str

    @property
    def model(self) -> Path:
        """The ONNX model that was chosen to be served; `metrics.exported` are its metrics."""
        return self.model_of(self.manifest.precision or "FP32")

    @property
    def precisions(self) -> tuple[str, ...]:
        """In which arithmetic the bundle has the model."""
        return tuple(name for name, file in MODELS.items() if file in {entry.path for entry in self.manifest.files})

    def model_of(self, precision: str) -> Path:
        """The ONNX model in FP32 or INT8. Raises InvalidBundle where the bundle has no such file."""
        if precision not in self.precisions:
            remedy = f"use {' or '.join(self.precisions)}, or train with compression.quantization"
            raise InvalidBundle(f"has no model in {precision}", str(self.path / MANIFEST), remedy)
        return self.path / MODELS[precision]

    def exported(self, name: str) -> Path:
        """The file of a format. Raises InvalidBundle where the bundle has none, or none that can be run."""
        files = {each.format: each.file for each in self.manifest.formats or () if each.difference is not None}
        files = {**files, "ONNX": MODEL}
        if name not in files:
            remedy = f"use {' or '.join(sorted(files))}, or train with export.formats [ONNX, {name}]"
            raise InvalidBundle(f"has no {name} that can be run", str(self.path / MANIFEST), remedy)
        return self.path / files[name]

    def golden(self, precision: str | None = None) -> list[float] | None:
        """The numbers of the stated answer to the golden image, in this precision; None: the bundle states none."""
        return golden_of(self.manifest, precision, lambda name: (self.path / name).read_bytes())

    def profile(self) -> ReferenceProfile | None:
        """What the images were like that the model was measured on; None: the bundle does not say."""
        return profile_of(self.manifest, lambda name: (self.path / name).read_bytes())


def golden_of(manifest: BundleManifest, precision: str | None, read: Callable[[str], bytes]) -> list[float] | None:
    """The numbers of the answer to the golden image that a bundle states; None: it states none for this precision.

    Args:
        manifest: That of the bundle.
        precision: FP32, INT8, or None: the bundle's own choice.
        read: Gives a file of the bundle by its name.

    Raises:
        CorruptBundle: the file is not what its digest promises.
    """
    content = _file_of(manifest, ANSWERS, read)
    if content is None:
        return None
    answers: Mapping[str, list[float]] = json.loads(content)
    return answers.get(precision or manifest.precision or "FP32")


def profile_of(manifest: BundleManifest, read: Callable[[str], bytes]) -> ReferenceProfile | None:
    """The reference profile of a bundle; None: it has none. Raises CorruptBundle.

    Args:
        manifest: That of the bundle.
        read: Gives a file of the bundle by its name.
    """
    content = _file_of(manifest, PROFILE, read)
    if content is None:
        return None
    try:
        return ReferenceProfile.model_validate_json(content)
    except ValidationError as error:
        raise CorruptBundle(f"no reference profile: {error.error_count()} errors", PROFILE, COPY_AGAIN) from error


def _file_of(manifest: BundleManifest, name: str, read: Callable[[str], bytes]) -> bytes | None:
    """A file that the manifest names, verified; None where it names no such file."""
    for entry in manifest.files:
        if entry.path == name:
            content = read(name)
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise CorruptBundle(f"the content's SHA-256 is not {entry.sha256}", name, COPY_AGAIN)
            return content
    return None


def bundle_digest(manifest: BundleManifest) -> str:
    """`sha256-<64 hex>` over the manifest without `createdAt`; it covers all files by their digests."""
    content = {key: value for key, value in manifest.to_dict().items() if key != "createdAt"}
    return digest_of(content)


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_bundle(path: Path | str, public_key: Path | None = None) -> Bundle:
    """Reads a bundle's manifest and verifies every file that it names.

    Args:
        path: Local directory of the bundle. A directory called `sha256-…` must have that digest.
        public_key: The bundle must have been signed by the owner of this key, see `signature`. None: it need not.

    Raises:
        UntrustedBundle: it is not signed by that key, or was changed since.
        InvalidBundle: no manifest, an unknown schema version, a manifest that breaks the schema or names a
            file outside of the bundle.
        CorruptBundle: a file is missing or differs from its digest, or the manifest from the directory's
            name.
    """
    directory = Path(path)
    if public_key is not None:
        verify_signature(directory, public_key)
    manifest = read_manifest(directory / MANIFEST)
    for entry in manifest.files:
        file = _inside(directory, entry.path)
        verify_file(file, entry, str(file))
    if MODEL not in {entry.path for entry in manifest.files}:
        raise InvalidBundle(f"names no {MODEL}", str(directory / MANIFEST), "export the model as ONNX")
    digest = verify_digest(manifest, directory.resolve().name, str(directory))
    bundle = Bundle(directory, manifest, digest)
    assert bundle.model  # or it says which file is missing
    return bundle


def verify_digest(manifest: BundleManifest, name: str, where: str) -> str:
    """The manifest's digest, which must be that of the directory's name where it is one. Raises CorruptBundle."""
    digest = bundle_digest(manifest)
    if name.startswith("sha256-") and name != digest:
        raise CorruptBundle(f"the manifest's digest is {digest}, not the directory's name", where, COPY_AGAIN)
    return digest


def verify_file(file: Path, entry: BundleFile, where: str) -> None:
    """Holds a file against its entry in the manifest. Raises CorruptBundle, which names `where`."""
    if not file.is_file():
        raise CorruptBundle("the file is missing", where, COPY_AGAIN)
    if file.stat().st_size != entry.bytes:
        raise CorruptBundle(f"{file.stat().st_size} bytes instead of {entry.bytes}", where, COPY_AGAIN)
    if file_digest(file) != entry.sha256:
        raise CorruptBundle(f"the content's SHA-256 is not {entry.sha256}", where, COPY_AGAIN)


def read_manifest(file: Path) -> BundleManifest:
    """The manifest in a file. Raises InvalidBundle, CorruptBundle."""
    try:
        return parse_manifest(file.read_bytes(), str(file))
    except FileNotFoundError:
        raise InvalidBundle("no such file", str(file), "give the directory of a finished model bundle") from None


def parse_manifest(text: bytes, place: str) -> BundleManifest:
    """The manifest that a text is. Raises InvalidBundle, CorruptBundle, which name the place."""
    try:
        content = yaml.safe_load(text.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorruptBundle(f"not YAML: {error}", place, COPY_AGAIN) from error
    if not isinstance(content, dict):
        raise InvalidBundle("not a mapping", place, COPY_AGAIN)
    version = content.get("schemaVersion")
    if version != SCHEMA_VERSION:
        remedy = "use a matching Fovea version"
        raise InvalidBundle(f"schemaVersion {version!r} is not known, only {SCHEMA_VERSION}", place, remedy)
    try:
        # YAML has lists and timestamps where the JSON form has what pydantic's strict types want.
        return BundleManifest.model_validate(content)
    except ValidationError as error:
        raise InvalidBundle("; ".join(f"{path}: {text}" for path, text in problems(error)), place) from error


def _inside(directory: Path, name: str) -> Path:
    """The file of this name, which must lie in the bundle itself, also after symbolic links are followed."""
    relative = PurePosixPath(name)
    file = directory / relative
    if relative.is_absolute() or ".." in relative.parts or not file.resolve().is_relative_to(directory.resolve()):
        raise InvalidBundle(f"names a file outside of the bundle: {name!r}", str(directory / MANIFEST), COPY_AGAIN)
    return file
