"""Dataset versions on disk: the Parquet shards that a build writes, and the reader that training uses.

The reader keeps an uncompressed Arrow copy of each shard in a local cache and maps it into memory: samples
are read at random without decoding, processes on a machine share the pages, and nothing is held beyond them.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fovea_api.common import DIGEST
from fovea_api.errors import CorruptData, InvalidInput
from fovea_api.version import MANIFEST, DatasetVersion
from fovea_store import NotFound, StorePath
from numpy.typing import NDArray
from pydantic import ValidationError

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


class Split(Sequence[Sample]):
    """The samples of a split by position. Can be pickled and forked: each process maps the files itself."""

    def __init__(self, files: Sequence[Path], rows: Sequence[int]) -> None:
        self._files = tuple(files)
        self._ends = tuple(accumulate(rows))
        self._tables: dict[int, pa.Table] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, object]:
        return {"_files": self._files, "_ends": self._ends, "_tables": {}}

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
        table = self._table(shard)
        return _sample(table, position - (self._ends[shard] - table.num_rows))

    def column(self, name: str) -> list[object]:
        """One column of all samples, such as `label`, without touching the images."""
        return [value for shard in range(len(self._files)) for value in self._table(shard).column(name).to_pylist()]

    def _table(self, shard: int) -> pa.Table:
        if shard not in self._tables:
            self._tables[shard] = pa.ipc.open_file(pa.memory_map(str(self._files[shard]))).read_all()
        return self._tables[shard]


def _sample(table: pa.Table, row: int) -> Sample:
    def get(name: str) -> pa.Scalar:
        return table.column(name)[row]

    boxes = get("boxes").values
    return Sample(
        digest=get("digest").as_py(),
        name=get("name").as_py(),
        source=get("source").as_py(),
        image_bytes=get("image").as_py(),
        width=get("width").as_py(),
        height=get("height").as_py(),
        label=get("label").as_py(),
        boxes=np.array(boxes.flatten().to_numpy(), np.float32).reshape(-1, 4),
        labels=np.array(get("labels").values.to_numpy(), np.int32),
        mask_bytes=get("mask").as_py(),
        difficult=np.array(get("difficult").values.to_numpy(zero_copy_only=False), np.bool_),
        group=get("group").as_py(),
    )


@dataclass(frozen=True)
class OpenVersion:
    """A version whose shards are in the local cache."""

    manifest: DatasetVersion
    folder: Path

    def split(self, name: str) -> Split:
        """The samples of `train`, `validation` or `test`; empty where the version has none."""
        shards = [shard for shard in self.manifest.shards if shard.split == name]
        if not shards and name not in self.manifest.splits:
            raise InvalidInput(
                f"the version has no split {name!r}",
                self.manifest.digest,
                f"it has {', '.join(self.manifest.splits)}",
            )
        return Split([self.folder / _cached(shard.path) for shard in shards], [shard.rows for shard in shards])


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


def open_version(uri: str, cache_dir: Path | str, credentials: str | None = None) -> OpenVersion:
    """Opens a version for reading; fetches and verifies the shards that the cache lacks.

    Several processes may open the same version at once. Raises NotFound, CorruptData, StoreUnavailable.
    """
    version = StorePath.parse(uri, credentials)
    manifest = read_manifest(version)
    folder = Path(cache_dir) / manifest.digest
    folder.mkdir(parents=True, exist_ok=True)
    for shard in manifest.shards:
        target = folder / _cached(shard.path)
        if not target.exists():
            _fetch(version / shard.path, target, shard.digest)
    return OpenVersion(manifest, folder)


def _cached(path: str) -> str:
    return f"{Path(path).stem}.arrow"


def _fetch(shard: StorePath, target: Path, digest: str) -> None:
    unique = uuid.uuid4().hex
    packed, mapped = (target.with_name(f".{target.name}.{unique}.{kind}") for kind in ("parquet", "arrow"))
    try:
        if shard.is_local:
            source = shard.local_path()
        else:
            shard.download(packed)
            source = packed
        if not source.exists():
            raise NotFound("a shard of the version is missing", shard.uri, "build the version anew")
        with source.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != digest:
            raise CorruptData(f"the shard's sha256 is {actual}, not {digest}", shard.uri, "build the version anew")
        with (
            pq.ParquetFile(source) as parquet,
            pa.OSFile(str(mapped), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as writer,
        ):
            for group in range(parquet.num_row_groups):
                writer.write_table(parquet.read_row_group(group))
        os.replace(mapped, target)
    finally:
        packed.unlink(missing_ok=True)
        mapped.unlink(missing_ok=True)


def write_shard(rows: Iterator[dict[str, object]], file: Path) -> int:
    """Writes rows in the columns of SCHEMA to a Parquet file in bounded memory; returns their number."""
    count, held, pending = 0, 0, list[dict[str, object]]()
    compression = {name: "NONE" if name in ("image", "mask") else "ZSTD" for name in SCHEMA.names}
    # Nested columns are named by their leaves.
    compression |= {"boxes.list.element.list.element": "ZSTD", "labels.list.element": "ZSTD"}
    with pq.ParquetWriter(
        file, SCHEMA, compression=compression, use_dictionary=["source", "group"], write_statistics=False
    ) as writer:
        for row in rows:
            pending.append(row)
            count += 1
            held += sum(len(value) for value in row.values() if isinstance(value, bytes))
            if held >= ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(pending, SCHEMA))
                pending, held = [], 0
        if pending:
            writer.write_table(pa.Table.from_pylist(pending, SCHEMA))
    return count
