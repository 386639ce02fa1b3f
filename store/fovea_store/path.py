"""Files and folders in a store: local paths, `file://`, `pvc://claim/path`, `s3://bucket/path`, `gs://…`; for reading,
the bundles in a registry, `oci://registry/repository:tag`, too.

A `StorePath` is a URI with what is needed to open it. It is small and can be sent to other processes; each
process opens its own connection. Writes are atomic: on object stores by nature, on file systems by a rename.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from fovea_api.errors import InvalidInput
from pyarrow import fs

from fovea_store.atomic import COPY_CHUNK_BYTES, Replacing, copy_file, delete_tree, write_file
from fovea_store.errors import AccessDenied, NotFound, StoreUnavailable, explained
from fovea_store.filesystems import filesystem, locate, split_uri

SCHEMES = ("file", "pvc", "s3", "gs", "oci")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a place: its path relative to that place (POSIX), its size in bytes and when it was written."""

    path: str
    size: int
    modified: int = 0
    """Nanoseconds since 1970."""


@dataclass(frozen=True, slots=True)
class StorePath:
    """A file or folder in a store.

    Args:
        uri: Without a trailing slash. A URI without a scheme is a local path.
        credentials: Folder that holds AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, … as files (a mounted
            Secret). None: the environment's.
    """

    uri: str
    credentials: str | None = None

    @classmethod
    def parse(cls, uri: str, credentials: str | None = None) -> StorePath:
        """The path of a URI or a local path. Raises InvalidInput for a scheme that is not a store's."""
        scheme, rest = split_uri(uri)
        if scheme and scheme not in SCHEMES:
            raise InvalidInput(
                f"{scheme}:// is not a store",
                uri,
                "use a local path, pvc://claim/path, s3://bucket/path or gs://bucket/path",
            )
        if scheme == "file" and not rest.startswith("/"):
            raise InvalidInput(
                f"file://{rest.partition('/')[0]} names a host, and files of other machines cannot be read",
                uri,
                f"for a path from the root write file:///{rest}, for one beside the manifest ./{rest}",
            )
        if scheme in ("", "file"):
            path = Path(rest) if scheme else Path(uri).expanduser()
            return cls(str(path.absolute()), credentials)
        result = cls(uri.rstrip("/"), credentials)
        locate(result.uri)
        return result

    def __truediv__(self, path: str) -> StorePath:
        """The place `path` below this one. Raises InvalidInput where `path` leaves it."""
        if not path:
            return self
        if path.startswith("/") or "\\" in path or any(part == ".." for part in path.split("/")):
            raise InvalidInput(
                f"the path {path!r} leaves its folder",
                self.uri,
                "write paths relative to the folder, without '..'",
            )
        return replace(self, uri=f"{self.uri.rstrip('/')}/{path}")

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        """Whether it is on a file system (a pod's claims are)."""
        return split_uri(self.uri)[0] in ("", "file", "pvc")

    def local_path(self) -> Path:
        """The path on the file system. Raises InvalidInput for an object store."""
        if not self.is_local:
            raise InvalidInput("this is not on a file system", self.uri)
        return Path(locate(self.uri))

    def parents(self) -> Iterator[StorePath]:
        """The folders that this one lies in, the nearest first, up to the bucket, the claim or the local root."""
        scheme, rest = split_uri(self.uri)
        path, prefix = rest.strip("/"), f"{scheme}://" if scheme else "/"
        while "/" in path or (path and not scheme):
            path = path.rpartition("/")[0]
            yield replace(self, uri=f"{prefix}{path}")

    # --- Reading ---

    def read_bytes(self, limit: int | None = None) -> bytes:
        """The whole content. Raises InvalidInput where it is longer than `limit` bytes."""

        def read() -> bytes:
            with self._filesystem().open_input_stream(self._path(), compression=None) as stream:
                data: bytes = stream.read(limit + 1 if limit is not None else None)
            return data

        data = self._call(read)
        if limit is not None and len(data) > limit:
            raise InvalidInput(f"the file is larger than {limit:,} bytes", self.uri)
        return data

    def read_text(self, limit: int | None = None) -> str:
        """The content as UTF-8 text."""
        try:
            return self.read_bytes(limit).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidInput("the file is not UTF-8 text", self.uri, "save it as UTF-8") from error

    def open(self) -> pa.NativeFile:
        """The content as a file that can be read at any position; to be closed by the caller."""
        return self._call(lambda: self._filesystem().open_input_file(self._path()))

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return bool(self._call(self._info).type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Whether a file is there."""
        return bool(self._call(self._info).type == fs.FileType.File)

    def size(self) -> int:
        """Size of the file in bytes. Raises NotFound."""
        info = self._call(self._info)
        if info.type != fs.FileType.File:
            raise NotFound("there is no such file", self.uri, "check the path")
        return int(info.size)

    def files(self, *, recursive: bool = True, missing_ok: bool = False) -> list[Entry]:
        """All files below this folder, sorted by path.

        Raises NotFound where the folder does not exist; with `missing_ok` there are none then.
        A link to a folder that lies above it is not followed, and one that leads out of a claim refused: whoever may
        write there could read the Secrets and the environment of the pod. A name that is no UTF-8 has the sign U+FFFD
        in it, and cannot be opened.
        """
        root = self._path().rstrip("/")

        def find() -> list[Entry]:
            if self.is_local:
                scheme, rest = split_uri(self.uri)
                claim = locate(f"pvc://{rest.partition('/')[0]}") if scheme == "pvc" else None
                return sorted(local_files(Path(root or "/"), recursive, claim), key=lambda entry: entry.path)
            selector = fs.FileSelector(root, recursive=recursive)
            infos = self._filesystem().get_file_info(selector)
            files = (info for info in infos if info.type == fs.FileType.File)
            return sorted(
                (Entry(info.path[len(root) :].lstrip("/"), info.size, info.mtime_ns or 0) for info in files),
                key=lambda entry: entry.path,
            )

        try:
            return self._call(find)
        except NotFound:
            if missing_ok:
                return []
            raise

    def stamp(self) -> str:
        """Digest of names, sizes and times of the file or of all files below: another one after a write there.

        Raises NotFound.
        """
        info = self._call(self._info)
        entries = [Entry("", info.size, info.mtime_ns or 0)] if info.type == fs.FileType.File else self.files()
        digest = hashlib.sha256()
        for entry in entries:
            digest.update(f"{entry.path!r} {entry.size} {entry.modified}\n".encode())
        return digest.hexdigest()

    def tag(self) -> str:
        """What changes with the content of this file: its size, and its SHA-256 or the ETag of an object store.

        Raises NotFound.
        """

        def read() -> str:
            with self._filesystem().open_input_stream(self._path(), compression=None) as stream:
                for name, value in (stream.metadata() or {}).items():
                    if name.lower() == b"etag":
                        return f"{self.size()} {value.decode()}"
                digest, size = hashlib.sha256(), 0
                while chunk := stream.read(COPY_CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                return f"{size} {digest.hexdigest()}"

        return self._call(read)

    def folders(self) -> list[str]:
        """Names of the folders directly below; empty where there is nothing."""

        def find() -> list[str]:
            selector = fs.FileSelector(self._path().rstrip("/"), recursive=False)
            try:  # not `allow_not_found`: with it arrow raises where the folder is made while it looks
                infos = self._filesystem().get_file_info(selector)
            except FileNotFoundError:
                return []
            return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)

        return self._call(find)

    def modified(self, paths: Sequence[str]) -> dict[str, datetime]:
        """When the files at these paths below were last written, by path; those that do not exist are left out."""
        places = [(self / path)._path() for path in paths]
        infos = self._call(lambda: self._filesystem().get_file_info(places)) if places else []
        return {path: info.mtime for path, info in zip(paths, infos, strict=True) if info.type == fs.FileType.File}

    # --- Writing ---

    def write_bytes(self, data: bytes) -> None:
        """Writes the file whole or not at all, replacing an earlier one; makes the folders above it."""
        if self.is_local:
            with Replacing(self.local_path()) as temporary:
                self._call(lambda: write_file(temporary, data))
            return

        def write() -> None:
            with self._filesystem().open_output_stream(self._path(), compression=None) as stream:
                stream.write(data)

        self._call(write)

    def write_text(self, text: str) -> None:
        """Writes UTF-8 text, whole or not at all."""
        self.write_bytes(text.encode())

    def upload(self, file: Path) -> None:
        """Copies a local file here, whole or not at all, in bounded memory."""

        def copy() -> None:
            with (
                file.open("rb") as source,
                self._filesystem().open_output_stream(self._path(), compression=None) as target,
            ):
                while chunk := source.read(COPY_CHUNK_BYTES):
                    target.write(chunk)

        if self.is_local:
            with Replacing(self.local_path()) as temporary:
                self._call(lambda: copy_file(file, temporary))
        else:
            self._call(copy)

    def download(self, file: Path) -> None:
        """Copies this file to a local path, whole or not at all, in bounded memory."""

        def copy(temporary: Path) -> None:
            with (
                self._filesystem().open_input_stream(self._path(), compression=None) as source,
                temporary.open("wb") as target,
            ):
                while chunk := source.read(COPY_CHUNK_BYTES):
                    target.write(chunk)

        with Replacing(file) as temporary:
            self._call(lambda: copy(temporary))

    def upload_tree(self, folder: Path, *, last: str | None = None) -> None:
        """Copies all files below a local folder here; the file `last` (the commit) after all others."""
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path == last):
            (self / path).upload(folder / path)

    def download_tree(self, folder: Path) -> None:
        """Copies all files below this place into a local folder."""
        for entry in self.files():
            (self / entry.path).download(folder / entry.path)

    def delete(self) -> None:
        """Deletes the file or the folder with all below it; nothing where nothing is there."""

        def remove() -> None:
            kind = self._info().type
            if kind == fs.FileType.File:
                with suppress(FileNotFoundError):  # another process has deleted it meanwhile
                    self._filesystem().delete_file(self._path())
            elif kind == fs.FileType.Directory and self.is_local:
                delete_tree(self.local_path())
            elif kind == fs.FileType.Directory:
                try:
                    self._filesystem().delete_dir(self._path())
                except OSError:  # some S3 servers drop a folder with its last file, before its own turn comes
                    if self._info().type == fs.FileType.Directory:
                        self._filesystem().delete_dir(self._path())

        self._call(remove)

    def arrow(self) -> tuple[fs.FileSystem, str]:
        """The file system and the path in it, for libraries that take these."""
        return self._filesystem(), self._path()

    # --- Plumbing ---

    def _filesystem(self) -> fs.FileSystem:
        return filesystem(split_uri(self.uri)[0], self.credentials)

    def _path(self) -> str:
        return locate(self.uri)

    def _info(self) -> fs.FileInfo:
        return self._filesystem().get_file_info(self._path())

    def _call(self, work: Callable[[], _T]) -> _T:
        """Does the work and turns what file systems raise into errors that say what to do."""
        try:
            return work()
        except FileNotFoundError as error:
            raise NotFound("there is nothing", self.uri, "check the path") from error
        except PermissionError as error:
            raise AccessDenied("access is denied", self.uri, "check permissions and credentials") from error
        except (NotADirectoryError, IsADirectoryError) as error:
            raise InvalidInput("a file was expected where a folder is, or the reverse", self.uri) from error
        except OSError as error:
            raise explained(error, self.uri) from error
        except pa.ArrowException as error:
            raise StoreUnavailable(str(error), self.uri) from error


def local_files(root: Path, recursive: bool, within: str | None = None) -> Iterator[Entry]:
    """The files below a local folder; see `StorePath.files`.

    `within`: the folder that no link may lead out of. Raises InvalidInput where one does.
    """
    _refuse_outside(str(root), within)
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while waiting:
        folder, above = waiting.pop()
        try:
            entries = os.scandir(root / folder)
        except FileNotFoundError:
            if not folder:
                raise
            continue  # another process has deleted or renamed it meanwhile, as a file below
        with entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink():
                    _refuse_outside(entry.path, within)
                if entry.is_file():
                    try:
                        stat = entry.stat()
                    except FileNotFoundError:  # another process has deleted or renamed it meanwhile
                        continue
                    shown = path.encode(errors="surrogateescape").decode(errors="replace")
                    yield Entry(shown, stat.st_size, stat.st_mtime_ns)
                elif recursive and entry.is_dir() and (real := os.path.realpath(entry.path)) not in above:
                    waiting.append((path, (*above, real)))


def _refuse_outside(path: str, within: str | None) -> None:
    """Raises InvalidInput where something is at a path that leads out of a folder."""
    if within is None or not os.path.exists(path):
        return
    if not f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(within)}/"):
        raise InvalidInput("the link leads out of its claim", path, "copy what it leads to into the claim")
