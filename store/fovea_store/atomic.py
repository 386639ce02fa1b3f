"""Files of a local file system that appear whole or not at all, and folders that several may delete at once."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from fovea_store.errors import explained

COPY_CHUNK_BYTES = 8 << 20
"""Bytes held in memory while a file is copied."""


class Replacing:
    """A temporary file beside `target` that takes its place when the block ends well, and goes otherwise."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")  # a name may already be as long as names can be

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, str(self.target)) from error
        return self.temporary

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                with self.temporary.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(self.temporary, self.target)
        except OSError as failed:  # a file system may notice a full disk only here
            raise explained(failed, str(self.target)) from failed
        finally:
            self.temporary.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)


def copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, COPY_CHUNK_BYTES)


def delete_tree(folder: Path) -> None:
    """Deletes a folder with all below it, parts of which other processes may delete at the same time."""

    def failed(_: object, __: str, found: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(found[1], FileNotFoundError):
            raise found[1]

    shutil.rmtree(folder, onerror=failed)
