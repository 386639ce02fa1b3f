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
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fovea_api.errors import CorruptData
from fovea_api.version import Shard
from fovea_store import NotFound, StorePath
from fovea_store.errors import StoreFull, StoreUnavailable, explained

IMAGE_COLUMNS = ("image", "mask", "masks")
"""Columns that hold pixels; all others are labels."""
FREE_SHARE = 0.6
"""Share of the free disk that shards may take where no limit is given; decoded images may take DISK_SHARE of it."""
ATTEMPTS, PAUSE_SECONDS = 4, 2.0
"""How often a shard is asked for before its error counts, and the pause after the first time; it doubles."""
ROOM_SECONDS = 0.05
"""Between two looks whether others that arrive have left room."""
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
        """Brings the labels of all shards, and no image. Raises NotFound, CorruptData, StoreUnavailable, StoreFull."""
        missing = [shard for shard in shards if not self.labels(shard).exists()]
        with ThreadPoolExecutor(LABEL_READERS) as pool:
            list(pool.map(self._bring_labels, missing))

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
        with _locked(_lock(file)):
            return self._bring_images(shard, file, keep)

    def read(self, shard: Shard) -> MappedImages:
        """The images of a shard, which no other process removes before they are mapped. Raises what `fetch` does."""
        file = self.images(shard)
        with _locked(_lock(file)):
            self._bring_images(shard, file, ())
            return MappedImages(mapped(file), file, file.stat().st_ino)

    def _bring_images(self, shard: Shard, file: Path, keep: Collection[Shard]) -> Path:
        """See `fetch`; the shard's lock is held."""
        packed, kept = self.version / shard.path, {self.images(other) for other in keep}

        def bring() -> None:
            with self._room(file, packed.size(), kept):
                _fetch_images(packed, file, shard.digest)

        try:
            os.utime(file)
        except FileNotFoundError:
            _attempt(bring)
        return file

    def _bring_labels(self, shard: Shard) -> None:
        file = self.labels(shard)
        with _locked(_lock(file)):
            if not file.exists():
                _attempt(lambda: _fetch_labels(self.version / shard.path, file))

    @contextmanager
    def _room(self, file: Path, size: int, keep: Collection[Path]) -> Iterator[None]:
        """Room for a shard that arrives: while it does, it takes its size twice. Its lock is held."""
        _clear(file)
        while not self._reserve(file, 2 * size, keep):
            time.sleep(ROOM_SECONDS)
        try:
            yield
        finally:
            _clear(file)

    def _reserve(self, file: Path, needed: int, keep: Collection[Path]) -> bool:
        """Removes the shards that were not used for longest; False: there may be room when others have arrived."""
        with _locked(self.folder / ".room.lock"):
            arriving = self._arriving()  # before those that are here: one that arrives just now is counted twice
            here = sorted(self.folder.glob("*.images.arrow"), key=lambda other: other.stat().st_mtime_ns)
            taken, wait = arriving + sum(other.stat().st_size for other in here), arriving > 0
            free = shutil.disk_usage(self.folder).free
            limit = int((free + taken - arriving) * FREE_SHARE) if self.limit is None else self.limit
            for other in here:
                if taken + needed > limit and other not in keep:
                    size = other.stat().st_size
                    with _locked(_lock(other), wait=False) as held:
                        if held:
                            other.unlink()
                            taken -= size
                        wait |= not held  # a process is about to map it
            if taken + needed <= limit:
                os.truncate(_lock(file), needed)
                return True
            if wait:
                return False
            raise StoreFull(
                f"a shard of {needed // 2:,} bytes has no room beside the {taken:,} that are being read: "
                f"the local copies may take {limit:,}",
                str(self.folder),
                "give the run's pods more of work_dir_size, or a larger disk",
            )

    def _arriving(self) -> int:
        """Bytes reserved for shards on their way; what a killed process has left of one is removed."""
        total = 0
        for lock in self.folder.glob(".*.images.arrow.lock"):
            if reserved := lock.stat().st_size:
                with _locked(lock, wait=False) as held:
                    if held:
                        _clear(lock.with_name(lock.name[1 : -len(".lock")]))
                    else:
                        total += reserved
        return total


@dataclass(frozen=True, slots=True)
class MappedImages:
    """Images of a shard, mapped into memory: they can be read until this object ends."""

    table: pa.Table
    file: Path
    inode: int

    @property
    def cached(self) -> bool:
        """Whether the cache has this file; one that has left takes its place on the disk while it is mapped."""
        try:
            return self.file.stat().st_ino == self.inode
        except FileNotFoundError:
            return False


def mapped(file: Path) -> pa.Table:
    """The table of an Arrow file, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _attempt(action: Callable[[], None]) -> None:
    """Does what a store may fail at, up to ATTEMPTS times."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (StoreUnavailable, CorruptData) as error:
            if attempt == ATTEMPTS:
                raise
            log.warning("%s; it is fetched again", error)
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))


def _fetch_labels(packed: StorePath, target: Path) -> None:
    if not packed.is_file():
        raise _missing(packed)
    try:
        with packed.open() as source, pq.ParquetFile(source, pre_buffer=True) as parquet:
            names = [name for name in parquet.schema_arrow.names if name not in IMAGE_COLUMNS]
            table = parquet.read(names)
    except pa.ArrowException as error:
        raise CorruptData(f"the shard cannot be read: {error}", packed.uri, "build the version anew") from error
    except OSError as error:
        raise explained(error, packed.uri) from error
    _write(target, iter([table]))


def _fetch_images(packed: StorePath, target: Path, digest: str) -> None:
    local = target.with_name(f".{target.name}.parquet")
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


def _write(target: Path, tables: Iterator[pa.Table]) -> None:
    """Writes tables of one schema to an Arrow file, whole or not at all; the file's lock is held."""
    temporary = target.with_name(f".{target.name}.part")
    first = next(tables)
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
        os.replace(temporary, target)
    except OSError as error:
        raise explained(error, str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _clear(file: Path) -> None:
    """Removes what is left of an arrival, and its reservation; the file's lock is held."""
    lock = _lock(file)
    for temporary in file.parent.glob(f".*{file.name}.*"):
        if temporary != lock:
            temporary.unlink(missing_ok=True)
    os.truncate(lock, 0)


def _missing(shard: StorePath) -> NotFound:
    return NotFound("a shard of the version is missing", shard.uri, "build the version anew")


def _lock(file: Path) -> Path:
    """The lock of a file that is brought, mapped or removed; its size is what is reserved for one on its way."""
    return file.with_name(f".{file.name}.lock")


@contextmanager
def _locked(file: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a lock that other threads and processes wait for; without `wait`: False where another has it."""
    with file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:  # to close it is not enough: a process that was forked meanwhile has it open
            fcntl.flock(lock, fcntl.LOCK_UN)
