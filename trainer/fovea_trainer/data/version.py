"""Dataset versions on disk: the Parquet shards that a build writes, and the reader that training uses.

The reader has the labels of all shards, and the images of those that are being read; see `shard_cache`.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fovea_api.common import DIGEST
from fovea_api.errors import CorruptData, InvalidInput
from fovea_api.version import MANIFEST, DatasetVersion, Shard
from fovea_store import NotFound, StorePath
from numpy.typing import NDArray
from pydantic import ValidationError

from fovea_trainer.data.shard_cache import MappedImages, ShardCache, mapped

SCHEMA = pa.schema(
    [
        ("digest", pa.string()),
        ("name", pa.string()),
        ("source", pa.string()),
        ("group", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image", pa.binary()),
        ("label", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("labels", pa.list_(pa.int32())),
        ("difficult", pa.list_(pa.bool_())),
        ("mask", pa.binary()),
        ("masks", pa.list_(pa.binary())),
    ]
)
ASSIGNMENTS = "assignments.parquet"
ASSIGNMENT_SCHEMA = pa.schema(
    [("digest", pa.string()), ("split", pa.string()), ("group", pa.string()), ("cluster", pa.string())]
)
STATISTICS = "statistics.json"
REPORT = "report.html"
ROW_GROUP_BYTES = 16 << 20
"""Image bytes that a writer or the conversion to the cache holds at once."""
MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its labels."""

    digest: str
    name: str
    source: str
    image_bytes: bytes
    """The file as it was found."""
    width: int
    """Pixels, upright as EXIF says."""
    height: int
    label: int
    """Class index of the image; -1 where the task is another."""
    boxes: NDArray[np.float32]
    """[N, 4] x1, y1, x2, y2 in pixels, absolute."""
    labels: NDArray[np.int32]
    """[N] class index of each box."""
    mask_bytes: bytes | None
    """PNG of class indices [height, width], 255 = ignore; None where the task is another."""
    difficult: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """[N] whether a box is hard to see or a crowd."""
    group: str = ""
    masks: tuple[bytes, ...] = ()
    """[N] COCO's compressed run lengths of each box's pixels in the image; none where the task is another."""


class StoredSample(Sample):
    """A sample of a shard; its files are read from there when they are asked for."""

    __slots__ = ("_files",)
    _files: Callable[[str], Any]

    def __init__(self, labels: pa.RecordBatch, row: int, files: Callable[[str], Any]) -> None:
        def get(name: str) -> pa.Scalar:
            return labels.column(name)[row]

        values = {name: get(name).as_py() for name in ("digest", "name", "source", "width", "height", "label", "group")}
        boxes = np.array(get("boxes").values.flatten().to_numpy(), np.float32).reshape(-1, 4)
        difficult = np.array(get("difficult").values.to_numpy(zero_copy_only=False), np.bool_)
        values |= {"boxes": boxes, "labels": np.array(get("labels").values.to_numpy(), np.int32)}
        for name, value in {**values, "difficult": difficult, "_files": files}.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[type[Sample], tuple[object, ...]]:
        """Another process gets the sample with its files."""
        return Sample, tuple(getattr(self, each.name) for each in fields(Sample))

    @property
    def image_bytes(self) -> bytes:
        """The file as it was found."""
        data: bytes = self._files("image")
        return data

    @property
    def mask_bytes(self) -> bytes | None:
        """PNG of class indices; None where the task is another."""
        data: bytes | None = self._files("mask")
        return data

    @property
    def masks(self) -> tuple[bytes, ...]:
        """Run lengths of each box's pixels."""
        return tuple(self._files("masks") or ())


class Split(Sequence[Sample]):
    """The samples of a split by position. Can be pickled: each process maps the files itself.

    Args:
        shards: Those of the split.
        cache: Their local copies, with the labels of all of them.
    """

    def __init__(self, shards: Sequence[Shard], cache: ShardCache) -> None:
        self.shards = tuple(shards)
        self.cache = cache
        self._ends = tuple(accumulate(shard.rows for shard in shards))
        self._labels: dict[int, pa.Table] = {}
        self._images: dict[int, MappedImages] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_labels": {}, "_images": {}}

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = bisect.bisect_right(self._ends, position)
        row = position - (self._ends[shard] - self.shards[shard].rows)
        return StoredSample(self._label_table(shard), row, partial(self._file, shard, row))

    def column(self, name: str) -> list[object]:
        """One column of the labels of all samples, such as `label`; no image is touched."""
        return [
            value for shard in range(len(self.shards)) for value in self._label_table(shard).column(name).to_pylist()
        ]

    def shards_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the shard that each sample is in."""
        return np.searchsorted(self._ends, positions, "right").astype(np.int64)

    def forget(self) -> None:
        """Maps no images any more, so that shards that leave the cache take no place on the disk."""
        self._images = {}

    def _label_table(self, shard: int) -> pa.Table:
        if shard not in self._labels:
            self._labels[shard] = mapped(self.cache.labels(self.shards[shard]))
        return self._labels[shard]

    def _file(self, shard: int, row: int, column: str) -> Any:
        if shard not in self._images:
            self._images = {number: images for number, images in self._images.items() if images.cached}
            self._images[shard] = self.cache.read(self.shards[shard])
        table = self._images[shard].table
        return table.column(column)[row].as_py() if column in table.column_names else None  # older ones have fewer


@dataclass(frozen=True)
class OpenVersion:
    """A version whose labels are here, and whose images come when they are needed."""

    manifest: DatasetVersion
    cache: ShardCache

    def split(self, name: str) -> Split:
        """The samples of `train`, `validation` or `test`; empty where the version has none."""
        shards = [shard for shard in self.manifest.shards if shard.split == name]
        if not shards and name not in self.manifest.splits:
            raise InvalidInput(
                f"the version has no split {name!r}",
                self.manifest.digest,
                f"it has {', '.join(self.manifest.splits)}",
            )
        return Split(shards, self.cache)


def read_manifest(version: StorePath) -> DatasetVersion:
    """The manifest of a version. Raises NotFound where there is no (complete) version, CorruptData."""
    file = version / MANIFEST
    try:
        return DatasetVersion.model_validate_json(file.read_bytes(MANIFEST_BYTES))
    except NotFound:
        raise NotFound("there is no complete dataset version", version.uri, "build it first") from None
    except ValidationError as error:
        raise CorruptData(f"the manifest does not fit: {error}", file.uri, "build the version anew") from None


def stored_versions(dataset: StorePath) -> tuple[str, ...]:
    """Digests of the complete versions in a Dataset's folder, the one written last first."""
    written = dataset.modified([f"{name}/{MANIFEST}" for name in version_folders(dataset)])
    return tuple(path.partition("/")[0] for path in sorted(written, key=lambda path: (written[path], path))[::-1])


def version_folders(dataset: StorePath) -> list[str]:
    """Names of the folders of versions in a Dataset's folder, complete or not."""
    return [name for name in dataset.folders() if re.fullmatch(DIGEST, name)]


def open_version(
    uri: str, cache_dir: Path | str, credentials: str | None = None, limit: int | None = None
) -> OpenVersion:
    """Opens a version for reading; see ShardCache for what is fetched when.

    Several processes may open the same version at once. Raises NotFound, CorruptData, StoreUnavailable.

    Args:
        uri: Where the version is stored.
        cache_dir: Local folder; the version gets one of its own there, named by its digest.
        credentials: See StorePath.
        limit: Bytes that its images may take there at once; None: a share of what is free.
    """
    version = StorePath.parse(uri, credentials)
    manifest = read_manifest(version)
    folder = Path(cache_dir) / manifest.digest
    folder.mkdir(parents=True, exist_ok=True)
    cache = ShardCache(version, folder, limit)
    cache.fetch_labels(manifest.shards)
    return OpenVersion(manifest, cache)


def write_shard(rows: Iterator[dict[str, object]], file: Path) -> int:
    """Writes rows in the columns of SCHEMA to a Parquet file in bounded memory; returns their number."""
    count, held, pending = 0, 0, list[dict[str, object]]()
    compression = {name: "NONE" if name in ("image", "mask") else "ZSTD" for name in SCHEMA.names}
    # Nested columns are named by their leaves.
    compression |= {
        "boxes.list.element.list.element": "ZSTD",
        "labels.list.element": "ZSTD",
        "masks.list.element": "ZSTD",
    }
    with pq.ParquetWriter(
        file, SCHEMA, compression=compression, use_dictionary=["source", "group"], write_statistics=False
    ) as writer:
        for row in rows:
            pending.append(row)
            count += 1
            parts = (part for value in row.values() for part in (value if isinstance(value, list) else [value]))
            held += sum(len(part) for part in parts if isinstance(part, bytes))
            if held >= ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(pending, SCHEMA))
                pending, held = [], 0
        if pending:
            writer.write_table(pa.Table.from_pylist(pending, SCHEMA))
    return count
