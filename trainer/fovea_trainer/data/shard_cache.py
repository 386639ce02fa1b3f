"""The local copies of a version's shards: labels of all of them, images of those that are being read.

A shard is fetched when its images are needed for the first time, or ahead of that, and leaves when others need its
place. So training starts before all shards are here, and a version may be larger than the disk. The images are an
uncompressed Arrow file that is mapped into memory: samples are read at random, and processes on a machine share the
pages. A file that is removed while a process has it mapped can still be read there.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fovea_api.errors import CorruptData
from fovea_api.version import Shard
from fovea_store import NotFound, StorePath
from fovea_store.errors import StoreFull, StoreUnavailable

IMAGE_COLUMNS = ("image", "mask")
"""Columns that hold files; all others are labels."""
FREE_SHARE = 0.8
"""Share of the free disk that shards may take where no limit is given."""
ATTEMPTS, PAUSE_SECONDS = 4, 2.0
"""How often a shard is asked for before its error counts, and the pause after the first time; it doubles."""
LABEL_READERS = 8
"""Shards whose labels are read at once."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardCache:
    """A folder with shards of one version. Several processes may use it at once.

    Args:
        version: Where the version is stored.
        folder: The local folder.
        limit: Bytes that images may take; None: FREE_SHARE of what is free.
    """

    version: StorePath
    folder: Path
    limit: int | None = None

    def labels(self, shard: Shard) -> Path:
        """The Arrow file of a shard's labels, which `fetch_labels` has brought."""
        return self.folder / f"{Path(shard.path).stem}.labels.arrow"

    def images(self, shard: Shard) -> Path:
        """The Arrow file of a shard's images, where it is here."""
        return self.folder / f"{Path(shard.path).stem}.images.arrow"

    def fetch_labels(self, shards: Collection[Shard]) -> None:
        """Brings the labels of all shards, and no image. Raises NotFound, CorruptData, StoreUnavailable."""
        missing = [shard for shard in shards if not self.labels(shard).exists()]
        with ThreadPoolExecutor(LABEL_READERS) as pool:
            list(pool.map(self._fetch_labels, missing))

    def fetch(self, shard: Shard, keep: Collection[Shard] = ()) -> Path:
        """The file of a shard's images, which is brought and verified where it is not here.

        Args:
            shard: The shard.
            keep: Shards that must stay.

        Raises:
            NotFound, CorruptData, StoreUnavailable: after some attempts.
            StoreFull: there is no room beside those that must stay.
        """
        file = self.images(shard)
        with _locked(self.folder / f".{file.name}.lock"):
            if file.exists():
                os.utime(file)
                return file
            packed = self.version / shard.path
            self._make_room(packed.size(), {self.images(other) for other in keep} | {file})
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    _fetch_images(packed, file, shard.digest)
                    break
                except (StoreUnavailable, CorruptData) as error:
                    if attempt == ATTEMPTS:
                        raise
                    log.warning("%s; it is fetched again", error)
                    time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        return file

    def _make_room(self, needed: int, keep: Collection[Path]) -> None:
        """Removes the shards that were not used for longest. While one arrives, it takes its size twice."""
        with _locked(self.folder / ".room.lock"):
            here = sorted(self.folder.glob("*.images.arrow"), key=lambda file: file.stat().st_mtime_ns)
            taken = sum(file.stat().st_size for file in here)
            free = shutil.disk_usage(self.folder).free
            limit = int((free + taken) * FREE_SHARE) if self.limit is None else self.limit
            for file in here:
                if taken + 2 * needed <= limit:
                    return
                if file not in keep:
                    taken -= file.stat().st_size
                    file.unlink()
            if taken + 2 * needed > limit:
                raise StoreFull(
                    f"a shard of {needed:,} bytes has no room beside the {taken:,} that are being read: "
                    f"the local copies may take {limit:,}",
                    str(self.folder),
                    "give the run's pods more of work_dir_size, or a larger disk",
                )

    def _fetch_labels(self, shard: Shard) -> None:
        packed, target = self.version / shard.path, self.labels(shard)
        if not packed.is_file():
            raise _missing(packed)
        try:
            with packed.open() as source, pq.ParquetFile(source, pre_buffer=True) as parquet:
                names = [name for name in parquet.schema_arrow.names if name not in IMAGE_COLUMNS]
                table = parquet.read(names)
        except pa.ArrowException as error:
            raise CorruptData(f"the shard cannot be read: {error}", packed.uri, "build the version anew") from error
        _write(target, iter([table]))


def _fetch_images(packed: StorePath, target: Path, digest: str) -> None:
    local = target.with_name(f".{target.name}.{uuid.uuid4().hex}.parquet")
    try:
        if packed.is_local:
            source = packed.local_path()
        else:
            packed.download(local)
            source = local
        if not source.exists():
            raise _missing(packed)
        with source.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != digest:
            raise CorruptData(f"the shard's sha256 is {actual}, not {digest}", packed.uri, "build the version anew")
        with pq.ParquetFile(source) as parquet:
            groups = (parquet.read_row_group(group, IMAGE_COLUMNS) for group in range(parquet.num_row_groups))
            _write(target, groups)
    finally:
        local.unlink(missing_ok=True)


def _write(target: Path, tables: Iterator[pa.Table]) -> None:
    """Writes tables of one schema to an Arrow file, whole or not at all."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    first = next(tables)
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _missing(shard: StorePath) -> NotFound:
    return NotFound("a shard of the version is missing", shard.uri, "build the version anew")


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Holds a lock that other threads and processes wait for."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:  # to close it is not enough: a process that was forked meanwhile has it open
            fcntl.flock(lock, fcntl.LOCK_UN)
