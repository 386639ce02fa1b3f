"""Builds a dataset version: read and check, split, write, report; the manifest, written last, is the commit.

Images stream through: what is kept is an index in a SQLite file of the work folder, and about 500 bytes of
memory an image. Each image is read twice, once to check it and once to write it, and its digest is compared.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import multiprocessing
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fovea_api.common import Task, format_duration
from fovea_api.dataset import Recipe, empty_sources, unsupported
from fovea_api.errors import CorruptData, InvalidInput, NotSupported, Retryable
from fovea_api.run import Progress, VersionInput, digest_of
from fovea_api.version import (
    MANIFEST,
    DatasetSummary,
    DatasetVersion,
    QualitySummary,
    Shard,
    SourceProvenance,
)
from numpy.typing import NDArray

from fovea_trainer.data import report
from fovea_trainer.data.checks import near_duplicates
from fovea_trainer.data.formats import Options, open_reader
from fovea_trainer.data.read import (
    Checked,
    Content,
    OpenSource,
    check_chunk,
    class_mask,
    image_bytes,
    mask_png,
)
from fovea_trainer.data.records import (
    BROKEN_IMAGE,
    BROKEN_LABEL,
    FileImage,
    Found,
    ImageRef,
    Problem,
    ProblemKind,
    RawImage,
)
from fovea_trainer.data.sources import open_source, without_secrets
from fovea_trainer.data.splits import SPLITS, Assignment, Item, Kept, assign
from fovea_trainer.data.statistics import Statistics
from fovea_trainer.data.version import (
    ASSIGNMENT_SCHEMA,
    ASSIGNMENTS,
    REPORT,
    STATISTICS,
    read_manifest,
    write_shard,
)
from fovea_trainer.store import NotFound, Place, place

CHUNK = 32
"""Images that a worker is given at once."""
AHEAD = 3
"""Chunks for each worker that wait or are done: enough to keep it busy, few enough to bound memory."""
SHARD_IMAGES = 4096
SHARD_PIXELS = 1 << 30
"""A shard ends at SHARD_IMAGES images or SHARD_PIXELS pixels; about 300 MB of JPEG."""
EXCLUDE_BYTES = 256 << 20
PROGRESS_SECONDS = 1.0
SHOWN_PROBLEMS = 10
"""Problems that an error lists."""
KEPT_PROBLEMS = 500
"""Problems of a kind that the report lists; all are counted."""

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build has made or found made."""

    summary: DatasetSummary
    artifact: str
    """URI of the version's directory."""
    digest: str
    report: str
    """URI of the quality report."""
    adopted: bool
    """The store had this version already; nothing was written."""


def build_dataset(
    recipe: Recipe,
    *,
    name: str,
    store_root: str,
    parent: VersionInput | None = None,
    work_dir: Path | str,
    workers: int = 1,
    progress: Callable[[Progress], None] = lambda _: None,
) -> BuildResult:
    """Builds the version that the recipe describes, or finds it in the store.

    The version's digest is that of its content: images, labels, classes, splits and the assignments kept from
    the parent; not of places, times, order or machines.

    Args:
        recipe: What is wanted.
        name: Name of the Dataset: the version lies in `<store_root>/dataset/<name>/<digest>`.
        store_root: Root of the store.
        parent: The version whose split assignments are kept.
        work_dir: Local folder for the index and what must be unpacked.
        workers: Processes that read and check.
        progress: Told at most once a second how far the build is.

    Raises:
        NotSupported: the recipe asks for what this version cannot do.
        InvalidInput: a source is wrong, or a label is and the recipe says Fail; a class is too rare.
        Retryable: a store failed, or a source changed while it was read.
    """
    if problems := unsupported(recipe):
        raise NotSupported("; ".join(map(str, problems)))
    work = Path(work_dir)
    work.mkdir(parents=True, exist_ok=True)
    tell = _Teller(progress)
    tell.stage("Reading", 0)
    sources = [
        OpenSource(source.name, tree, open_reader(source.format, tree, options), options)
        for source in recipe.sources
        if source.uri is not None and source.format is not None
        for options in [Options(recipe.task, recipe.classes, recipe.class_map, source.mask_values)]
        for tree in [open_source(source, work / "sources" / source.name)]
    ]
    excluded = _excluded(recipe)
    kept, kept_rows = _parent(recipe, parent)
    with closing(_Index(work / "index.sqlite")) as index, _Workers(workers) as pool:
        for source, why in empty_sources(recipe):
            log.warning("%s is empty: %s", source, why)
            index.problem(Problem(ProblemKind.EMPTY_SOURCE, source, why))
        _read(sources, index, pool, excluded, tell)
        _refuse(recipe, index)
        classes = recipe.classes or tuple(index.classes())
        draft = _split(recipe, classes, sources, index, kept, kept_rows)
        target = place(store_root) / "dataset" / name / draft.digest
        _log_draft(draft)
        try:
            found = _result(read_manifest(target), target, adopted=True)
            log.info("the store has this version already: %s", target)
            return found
        except NotFound:
            pass
        manifest = _write(recipe, name, draft, sources, index, pool, target, work, parent, tell)
    tell.stage("Done", 100)
    log.info("version with its report written: %s", target)
    return _result(manifest, target, adopted=False)


def _log_draft(draft: _Draft) -> None:
    statistics, quality = draft.statistics, draft.quality
    splits = ", ".join(f"{statistics.splits[split]} {split}" for split in SPLITS if statistics.splits[split])
    log.info("%d images with %d annotations: %s", statistics.images, statistics.annotations, splits)
    found = {name.replace("_", " "): count for name, count in quality.model_dump().items() if count}
    if found:
        log.info("the checks found %s", ", ".join(f"{count} {name}" for name, count in found.items()))


def _result(manifest: DatasetVersion, target: Place, adopted: bool) -> BuildResult:
    return BuildResult(manifest.summary(), target.uri, manifest.digest, (target / REPORT).uri, adopted)


# --- Inputs -------------------------------------------------------------------------------------------------


def _excluded(recipe: Recipe) -> frozenset[str]:
    if recipe.exclude is None:
        return frozenset()
    lines = place(recipe.exclude.uri).read_text(EXCLUDE_BYTES).splitlines()
    words = (line.split("#")[0].strip() for line in lines)
    return frozenset(word.removeprefix("sha256-").removeprefix("sha256:") for word in words if word)


def _parent(recipe: Recipe, parent: VersionInput | None) -> tuple[Kept, list[dict[str, str]]]:
    """The assignments that are kept, and the parent's rows."""
    if parent is None or not recipe.splits.keep_assignments:
        return Kept(), []
    version = place(parent.artifact)
    if (found := read_manifest(version)).digest != parent.version:
        raise CorruptData(f"the version there is {found.digest}, not {parent.version}", version.uri, "check the store")
    with (version / ASSIGNMENTS).open() as file:
        rows: list[dict[str, str]] = pq.read_table(file).to_pylist()
    groups = {row["group"]: row["split"] for row in rows if row["group"]}
    return Kept({row["digest"]: row["split"] for row in rows}, groups), rows


# --- Stage 1: read and check --------------------------------------------------------------------------------


def _read(
    sources: Sequence[OpenSource], index: _Index, pool: _Workers, excluded: frozenset[str], tell: _Teller
) -> None:
    total = sum(len(source.tree.files) for source in sources)
    done = 0
    for number, source in enumerate(sources):
        log.info("reading source %s: %d files in %s", source.name, len(source.tree.files), source.tree.root)
        for checked in pool.map(check_chunk, ((source, chunk) for chunk in _chunks(source.reader.scan(), CHUNK))):
            for item in checked:
                if item.digest and (item.digest in excluded or item.name in excluded):
                    item = replace(item, digest="", problems=())
                    index.problem(Problem(ProblemKind.EXCLUDED, f"{source.name}: {item.name}", "listed in exclude"))
                index.add(number, item, source.name)
            done += len(checked)
            tell.images("Checking", done, max(done, total), 0, 60)
    index.commit()


def _chunks(items: Iterable[Found], size: int) -> Iterator[list[Found]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _refuse(recipe: Recipe, index: _Index) -> None:
    """Fails where the recipe says so."""
    for wanted, kinds, what in (
        (recipe.quality.on_corrupt_image, BROKEN_IMAGE, "images are corrupt"),
        (recipe.quality.on_invalid_label, BROKEN_LABEL, "labels are invalid"),
    ):
        if wanted == "Fail" and (count := sum(index.counts[kind] for kind in kinds)):
            raise InvalidInput(
                f"{count} {what}: {_first(index.problems(kinds))}",
                "spec.quality",
                "repair them, or set Drop to leave them out",
            )
    if not index.any():
        problems = _first(index.problems(tuple(ProblemKind))) or "the sources are empty"
        raise InvalidInput(f"no image with a usable label is left: {problems}", "spec.sources")


def _first(problems: Sequence[Problem]) -> str:
    shown = [f"{problem.place}: {problem.message}" for problem in problems[:SHOWN_PROBLEMS]]
    return "; ".join(shown + (["…"] if len(problems) > SHOWN_PROBLEMS else []))


class _Index:
    """What is known about each image, in a file: memory stays bounded, and SQL sorts."""

    def __init__(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        self.file = file
        self.counts: Counter[ProblemKind] = Counter()
        self.db = sqlite3.connect(file)
        self.db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE items (id INTEGER PRIMARY KEY, digest TEXT, source INT, name TEXT, hint TEXT,"
            " image TEXT, width INT, height INT, hash BLOB, thumb BLOB, content TEXT, classes TEXT,"
            " split TEXT, grp TEXT);"
            "CREATE TABLE problems (kind TEXT, place TEXT, message TEXT);"
        )
        self.names: set[str] = set()

    def close(self) -> None:
        self.db.close()

    def commit(self) -> None:
        self.db.execute("CREATE INDEX IF NOT EXISTS by_digest ON items (digest, source, name)")
        self.db.commit()

    def add(self, source: int, item: Checked, source_name: str) -> None:
        for problem in item.problems:
            self.problem(replace(problem, place=f"{source_name}: {problem.place}"))
        if item.digest:
            self.names.update(item.classes)
            image = item.image
            fields = [image.path] if isinstance(image, FileImage) else list(asdict(image).values())
            self.db.execute(
                "INSERT INTO items VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,NULL,'')",
                (
                    *(
                        item.digest,
                        source,
                        item.name,
                        item.split,
                        json.dumps(fields),
                        item.width,
                        item.height,
                    ),
                    *(item.hash, item.thumb, item.content.to_json(), json.dumps(item.classes)),
                ),
            )

    def problem(self, problem: Problem) -> None:
        self.counts[problem.kind] += 1
        if self.counts[problem.kind] <= 100 * KEPT_PROBLEMS:
            self.db.execute("INSERT INTO problems VALUES (?,?,?)", (problem.kind, problem.place, problem.message))

    def problems(self, kinds: Sequence[ProblemKind]) -> list[Problem]:
        """Problems of these kinds, sorted, so that they do not depend on the order of the workers."""
        marks = ",".join("?" * len(kinds))
        rows = self.db.execute(
            f"SELECT kind, place, message FROM problems WHERE kind IN ({marks}) ORDER BY place, message, kind LIMIT ?",
            (*kinds, KEPT_PROBLEMS),
        )
        return [Problem(ProblemKind(kind), place, message) for kind, place, message in rows]

    def name_of(self, number: int, sources: Sequence[OpenSource]) -> str:
        """An image as problems name it: its source and its name."""
        source, name = self.db.execute("SELECT source, name FROM items WHERE id = ?", (number,)).fetchone()
        return f"{sources[source].name}: {name}"

    def any(self) -> bool:
        return self.db.execute("SELECT 1 FROM items LIMIT 1").fetchone() is not None

    def classes(self) -> list[str]:
        return sorted(self.names)


@dataclass(frozen=True, slots=True)
class Row:
    """An image of the version to be written."""

    digest: str
    source: int
    name: str
    image: ImageRef
    width: int
    height: int
    content: Content
    group: str
    split: str

    def labels(self, classes: Sequence[str]) -> list[int]:
        """Class index of each annotation: of the image, of each box, or of each class that the mask shows."""
        if self.content.label is not None:
            return [classes.index(self.content.label)]
        if self.content.mask is not None:
            return [index for index, _ in self.content.pixels]
        if self.content.regions:
            return sorted({classes.index(region.name) for region in self.content.regions})
        return [classes.index(box[0]) for box in self.content.boxes]

    def boxes(self) -> list[list[float]]:
        return [list(box[1:5]) for box in self.content.boxes]

    def fingerprint(self, classes: Sequence[str], source: str) -> bytes:
        """Canonical text of all that training sees of the image."""
        return json.dumps(
            [
                *(self.digest, self.split, source, self.name, self.group, self.width, self.height),
                *(self.labels(classes), self.boxes(), [box[5] for box in self.content.boxes]),
                *(self.content.mask_digest, [[r.name, r.polygons, r.runs] for r in self.content.regions]),
            ],
            separators=(",", ":"),
        ).encode()


_COLUMNS = "digest, source, name, image, width, height, content, grp, split"


def _rows(db: sqlite3.Connection, where: str = "1", values: Sequence[object] = ()) -> Iterator[Row]:
    """Rows that are in a split, sorted by digest."""
    query = f"SELECT {_COLUMNS} FROM items WHERE split IS NOT NULL AND {where} ORDER BY digest"
    for digest, source, name, image, width, height, content, group, split in db.execute(query, tuple(values)):
        ref = json.loads(image)
        yield Row(
            digest,
            source,
            name,
            FileImage(*ref) if len(ref) == 1 else RawImage(*ref),
            width,
            height,
            Content.from_json(content),
            group,
            split,
        )


# --- Stage 2: split -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draft:
    """A version before it is written."""

    classes: tuple[str, ...]
    digest: str
    assignments: pa.Table
    statistics: Statistics
    quality: QualitySummary
    provenance: tuple[SourceProvenance, ...]
    deviation: float
    alike: tuple[tuple[str, str], ...] = field(default=())
    """Digests of pairs that look alike, those in different splits first."""
    across: int = 0


def _split(
    recipe: Recipe,
    classes: tuple[str, ...],
    sources: Sequence[OpenSource],
    index: _Index,
    kept: Kept,
    kept_rows: list[dict[str, str]],
) -> _Draft:
    numbers = {name: number for number, name in enumerate(classes)}
    if len(numbers) > 255 and recipe.task == Task.SEMANTIC_SEGMENTATION:
        raise InvalidInput(
            f"there are {len(numbers)} classes; masks hold 255", "spec.classes", "merge some by classMap"
        )
    ids, items = _unique(recipe, index, numbers)
    pairs = np.empty((0, 2), np.int64)
    if recipe.quality.near_duplicates != "Ignore":
        pairs = near_duplicates(*_fingerprints(index, ids))
    result = assign(items, pairs, recipe.splits, kept)
    leaving = {first for first, _ in result.leaked}
    if recipe.quality.near_duplicates == "Drop":
        leaving |= _look_alikes(result, pairs, kept, items)
    for first, second in dict(result.leaked).items():
        here, there = (index.name_of(ids[position], sources) for position in (first, second))
        message = f"the train image looks like the test image {there}; it leaves train"
        index.problem(Problem(ProblemKind.SPLIT_LEAKAGE, here, message))
    index.db.executemany(
        "UPDATE items SET split = ?, grp = ? WHERE id = ?",
        (
            (split, item.group, number)
            for position, (number, item, split) in enumerate(zip(ids, items, result.splits, strict=True))
            if position not in leaving
        ),
    )
    index.db.commit()
    assignments = _assignments(items, result, kept_rows)
    statistics, digest, provenance = _summarize(recipe, classes, sources, index, assignments)
    _refuse_rare(recipe, statistics)
    in_pairs = {int(position) for pair in pairs for position in pair}
    quality = QualitySummary(
        corrupt=sum(index.counts[kind] for kind in BROKEN_IMAGE),
        invalid_labels=sum(index.counts[kind] for kind in BROKEN_LABEL),
        exact_duplicates=index.counts[ProblemKind.EXACT_DUPLICATE],
        near_duplicates=len(in_pairs),
        split_leakage=len({first for first, _ in result.leaked}),
    )
    across = set(result.across)
    ordered = sorted(((int(a), int(b)) for a, b in pairs), key=lambda pair: (pair not in across, pair))
    alike = tuple((items[a].digest, items[b].digest) for a, b in ordered[: report.SHOWN_PAIRS])
    return _Draft(
        classes,
        digest,
        assignments,
        statistics,
        quality,
        provenance,
        result.deviation,
        alike,
        len(result.across),
    )


def _unique(recipe: Recipe, index: _Index, numbers: Mapping[str, int]) -> tuple[list[int], list[Item]]:
    """Id and item of each different image, sorted by digest; of equal images the first name."""
    pattern = recipe.splits.group_by and _compiled(recipe.splits.group_by.pattern)
    ids: list[int] = []
    items: list[Item] = []
    last_content, last_name = "", ""
    query = "SELECT id, digest, name, hint, classes, content FROM items ORDER BY digest, source, name"
    for number, digest, name, hint, names, content in index.db.execute(query):
        if items and items[-1].digest == digest:
            message = f"the image has the same bytes as {last_name}"
            index.problem(Problem(ProblemKind.EXACT_DUPLICATE, name, message))
            if content != last_content:
                message = f"the same image has other labels than {last_name}, which are taken"
                index.problem(Problem(ProblemKind.CONFLICTING_LABELS, name, message))
            if hint and hint != items[-1].hint and recipe.splits.method == "FromSource":
                strongest = "test" if "test" in (hint, items[-1].hint) else items[-1].hint or hint
                message = f"the same image is in {hint} and {items[-1].hint}; it goes to {strongest}"
                index.problem(Problem(ProblemKind.SPLIT_LEAKAGE, name, message))
                items[-1] = replace(items[-1], hint=strongest)
            continue
        match = pattern.search(name) if pattern else None
        group = (match["group"] or "") if match else ""
        ids.append(number)
        items.append(Item(digest, group, hint, tuple(numbers[label] for label in json.loads(names))))
        last_content, last_name = content, name
    return ids, items


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidInput(f"the pattern is broken: {error}", "spec.splits.groupBy.pattern") from None


def _fingerprints(index: _Index, ids: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    hashes, thumbs = np.empty((len(ids), 32), np.uint8), np.empty((len(ids), 64), np.uint8)
    position = {number: row for row, number in enumerate(ids)}
    for number, hash_bytes, thumb in index.db.execute("SELECT id, hash, thumb FROM items"):
        if (row := position.get(number)) is not None:
            hashes[row] = np.frombuffer(hash_bytes, np.uint8)
            thumbs[row] = np.frombuffer(thumb, np.uint8)
    return hashes, thumbs


def _look_alikes(result: Assignment, pairs: NDArray[np.int64], kept: Kept, items: Sequence[Item]) -> set[int]:
    """Positions to drop so that of each cluster one is left: a kept one, else of the strongest split."""
    clusters: dict[str, list[int]] = {}
    for position in sorted({int(position) for pair in pairs for position in pair}):
        clusters.setdefault(result.clusters[position], []).append(position)
    dropped: set[int] = set()
    for members in clusters.values():
        best = min(
            members,
            key=lambda m: (
                items[m].digest not in kept.splits,
                -SPLITS.index(result.splits[m]),
                items[m].digest,
            ),
        )
        dropped.update(member for member in members if member != best)
    return dropped


def _assignments(items: Sequence[Item], result: Assignment, kept_rows: list[dict[str, str]]) -> pa.Table:
    """All assignments ever made, sorted by digest: an image that comes back finds its split again."""
    now = {
        item.digest: {"digest": item.digest, "split": split, "group": item.group, "cluster": cluster}
        for item, split, cluster in zip(items, result.splits, result.clusters, strict=True)
    }
    rows = {row["digest"]: row for row in kept_rows} | now
    return pa.Table.from_pylist([rows[digest] for digest in sorted(rows)], ASSIGNMENT_SCHEMA)


def _summarize(
    recipe: Recipe,
    classes: tuple[str, ...],
    sources: Sequence[OpenSource],
    index: _Index,
    assignments: pa.Table,
) -> tuple[Statistics, str, tuple[SourceProvenance, ...]]:
    """Statistics, the version's digest, and what each source gave."""
    statistics = Statistics(classes)
    content = hashlib.sha256()
    by_source = [hashlib.sha256() for _ in sources]
    for row in _rows(index.db):
        source = sources[row.source].name
        fingerprint = row.fingerprint(classes, source)
        for digest in (content, by_source[row.source]):
            digest.update(fingerprint + b"\n")
        pixels = dict(row.content.pixels)
        statistics.add(row.split, source, (row.width, row.height), row.labels(classes), row.boxes(), pixels)
    kept = hashlib.sha256()
    for column in ("digest", "split", "group"):
        for chunk in assignments.column(column).chunks:
            for value in chunk:
                kept.update(value.as_py().encode() + b"\n")
    version = digest_of(
        {
            "schemaVersion": 1,
            "task": recipe.task.value,
            "classes": list(classes),
            "content": content.hexdigest(),
            "assignments": kept.hexdigest(),
        }
    )
    formats = {source.name: source for source in recipe.sources}
    provenance = tuple(
        SourceProvenance(
            name=source.name,
            uri=without_secrets(formats[source.name].uri or ""),
            format=formats[source.name].format or "",
            images=statistics.sources[source.name],
            digest=f"sha256-{digest.hexdigest()}",
        )
        for source, digest in zip(sources, by_source, strict=True)
    )
    return statistics, version, provenance


def _refuse_rare(recipe: Recipe, statistics: Statistics) -> None:
    least = recipe.quality.min_images_per_class
    rare = [f"{it.name} ({it.images})" for it in statistics.class_summaries() if it.images < least]
    if rare:
        raise InvalidInput(
            f"classes with fewer than {least} images: {', '.join(rare[:20])}",
            "spec.quality.minImagesPerClass",
            "add images, merge classes by classMap, or lower the bound",
        )


# --- Stage 3: write -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ShardOrder:
    """A shard to be written by a worker: the rows of a split from one digest to another."""

    index: Path
    sources: tuple[OpenSource, ...]
    classes: tuple[str, ...]
    split: str
    first: str
    last: str
    file: Path
    target: Place


def _write(
    recipe: Recipe,
    name: str,
    draft: _Draft,
    sources: Sequence[OpenSource],
    index: _Index,
    pool: _Workers,
    target: Place,
    work: Path,
    parent: VersionInput | None,
    tell: _Teller,
) -> DatasetVersion:
    staging = work / "shards"
    staging.mkdir(exist_ok=True)
    orders = [
        _ShardOrder(
            index.file,
            tuple(sources),
            draft.classes,
            split,
            first,
            last,
            staging / file,
            target / f"shards/{file}",
        )
        for split in SPLITS
        for number, (first, last) in enumerate(_ranges(index.db, split))
        for file in [f"{split}-{number:05}.parquet"]
    ]
    shards: list[Shard] = []
    written = 0
    for shard in pool.map(_write_shard, ((order,) for order in orders)):
        shards.append(shard)
        written += shard.rows
        tell.images("Writing", written, draft.statistics.images, 60, 95)
    for split in SPLITS:
        if draft.statistics.splits[split]:
            file = staging / f"{split}.json"
            _write_coco(draft, sources, index, split, file)
            (target / f"coco/{split}.json").upload(file)
            file.unlink()
    tell.stage("Reporting", 96)
    pq.write_table(draft.assignments, work / ASSIGNMENTS, compression="ZSTD", write_statistics=False)
    (target / ASSIGNMENTS).upload(work / ASSIGNMENTS)
    (target / STATISTICS).write_text(json.dumps(draft.statistics.to_dict(), indent=1))
    manifest = DatasetVersion(
        task=recipe.task,
        classes=draft.classes,
        splits={split: draft.statistics.splits[split] for split in SPLITS if draft.statistics.splits[split]},
        images=draft.statistics.images,
        annotations=draft.statistics.annotations,
        shards=tuple(shards),
        problem=recipe.problem.stated(),
        provenance=draft.provenance,
        parent=parent.version if parent else None,
        quality=draft.quality,
        class_summaries=draft.statistics.class_summaries(),
        metadata={"fovea": package_version("fovea"), "pyarrow": pa.__version__, "opencv": cv2.__version__},
        digest=draft.digest,
    )
    page = report.render_quality_report(
        name,
        manifest,
        draft.statistics,
        report.Findings(
            counts={kind: index.counts[kind] for kind in ProblemKind if index.counts[kind]},
            problems={kind: index.problems((kind,)) for kind in ProblemKind if index.counts[kind]},
            samples=_pictures(draft, sources, index, _sample_digests(draft, index)),
            pairs=_pair_pictures(draft, sources, index),
            across=draft.across,
            deviation=draft.deviation,
        ),
    )
    (target / REPORT).write_text(page)
    (target / MANIFEST).write_text(manifest.model_dump_json(indent=1, exclude_none=True))
    return manifest


def _ranges(db: sqlite3.Connection, split: str) -> Iterator[tuple[str, str]]:
    """First and last digest of each shard of a split."""
    first, last, images, pixels = "", "", 0, 0
    for digest, size in db.execute(
        "SELECT digest, width * height FROM items WHERE split = ? ORDER BY digest", (split,)
    ).fetchall():
        first, last, images, pixels = first or digest, digest, images + 1, pixels + size
        if images >= SHARD_IMAGES or pixels >= SHARD_PIXELS:
            yield first, last
            first, images, pixels = "", 0, 0
    if first:
        yield first, last


def _write_shard(order: _ShardOrder) -> Shard:
    """Writes a shard to the store (in a worker)."""
    cv2.setNumThreads(1)
    with closing(sqlite3.connect(order.index)) as db:
        rows = _rows(db, "split = ? AND digest BETWEEN ? AND ?", (order.split, order.first, order.last))
        count = write_shard((_record(row, order.sources, order.classes) for row in rows), order.file)
    with order.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    order.target.upload(order.file)
    order.file.unlink()
    return Shard(path=f"shards/{order.file.name}", split=order.split, rows=count, digest=digest)


def _record(row: Row, sources: Sequence[OpenSource], classes: tuple[str, ...]) -> dict[str, object]:
    source = sources[row.source]
    data = image_bytes(source.tree, row.image)
    if hashlib.sha256(data).hexdigest() != row.digest:
        raise Retryable("the image changed while the dataset was built", f"{source.name}: {row.name}", "build again")
    segments = source.options.task == Task.SEMANTIC_SEGMENTATION
    mask = class_mask(source.tree, row.content, classes, row.width, row.height) if segments else None
    return {
        "digest": row.digest,
        "name": row.name,
        "source": source.name,
        "group": row.group,
        "width": row.width,
        "height": row.height,
        "image": data,
        "label": classes.index(row.content.label) if row.content.label is not None else -1,
        "boxes": row.boxes(),
        "labels": row.labels(classes) if row.content.boxes else [],
        "difficult": [box[5] for box in row.content.boxes],
        "mask": mask_png(mask) if mask is not None else None,
    }


def _write_coco(draft: _Draft, sources: Sequence[OpenSource], index: _Index, split: str, file: Path) -> None:
    """A COCO file of a split, written as a stream. Masks are run lengths down the columns."""
    with file.open("w", encoding="utf-8") as out:
        categories = [{"id": number, "name": name} for number, name in enumerate(draft.classes, 1)]
        out.write(f'{{"categories": {json.dumps(categories)},\n"images": [')
        for number, row in enumerate(_rows(index.db, "split = ?", (split,)), 1):
            image = {"id": number, "file_name": row.name, "width": row.width, "height": row.height}
            out.write(f"{',' if number > 1 else ''}\n{json.dumps(image | {'source': sources[row.source].name})}")
        out.write('],\n"annotations": [')
        ids = itertools.count(1)
        for number, row in enumerate(_rows(index.db, "split = ?", (split,)), 1):
            for annotation in _coco_annotations(row, sources, draft.classes):
                identity = next(ids)
                annotation = {"id": identity, "image_id": number, **annotation}
                out.write(f"{',' if identity > 1 else ''}\n{json.dumps(annotation)}")
        out.write("]}\n")


def _coco_annotations(row: Row, sources: Sequence[OpenSource], classes: tuple[str, ...]) -> Iterator[dict[str, object]]:
    if row.content.label is not None:
        yield {"category_id": classes.index(row.content.label) + 1}
    for box in row.content.boxes:
        x1, y1, x2, y2 = box[1:5]
        width, height = x2 - x1, y2 - y1
        yield {
            "category_id": classes.index(box[0]) + 1,
            "bbox": [x1, y1, width, height],
            "area": width * height,
            "iscrowd": int(box[5]),
        }
    if row.content.mask is not None or row.content.regions:
        mask = class_mask(sources[row.source].tree, row.content, classes, row.width, row.height)
        for label in row.labels(classes):
            inside = mask == label
            flat = np.concatenate([[False], inside.T.ravel(), [False]])
            ends = np.flatnonzero(flat[1:] != flat[:-1])
            counts = np.diff(np.concatenate([[0], ends, [inside.size]])).tolist()
            ys, xs = np.nonzero(inside)
            if not len(xs):
                continue
            box_of = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            yield {
                "category_id": label + 1,
                "segmentation": {"size": list(inside.shape), "counts": counts},
                "bbox": [int(side) for side in box_of],
                "area": int(inside.sum()),
                "iscrowd": 1,
            }


# --- Pictures of the report ---------------------------------------------------------------------------------


def _sample_digests(draft: _Draft, index: _Index) -> list[str]:
    """Images to be shown: for each class in turn the first that shows it, by digest (as good as random)."""
    shown: list[str] = []
    for name in itertools.islice(itertools.cycle(draft.classes), 4 * report.SHOWN_SAMPLES):
        query = "SELECT digest FROM items WHERE split IS NOT NULL AND instr(classes, ?) ORDER BY digest LIMIT ?"
        for (digest,) in index.db.execute(query, (json.dumps(name), report.SHOWN_SAMPLES)):
            if digest not in shown:
                shown.append(digest)
                break
        if len(shown) >= report.SHOWN_SAMPLES:
            break
    return shown


def _pictures(
    draft: _Draft, sources: Sequence[OpenSource], index: _Index, digests: Sequence[str]
) -> list[report.Picture]:
    pictures: list[report.Picture] = []
    for digest in digests:
        for row in _rows(index.db, "digest = ?", (digest,)):
            record = _record(row, sources, draft.classes)
            pictures.append(
                report.Picture(
                    name=row.name,
                    split=row.split,
                    image=image_bytes(sources[row.source].tree, row.image),
                    label=row.content.label,
                    boxes=row.boxes(),
                    labels=row.labels(draft.classes) if row.content.boxes else [],
                    mask=mask if isinstance(mask := record["mask"], bytes) else None,
                )
            )
    return pictures


def _pair_pictures(
    draft: _Draft, sources: Sequence[OpenSource], index: _Index
) -> list[tuple[report.Picture, report.Picture]]:
    pairs = []
    for first, second in draft.alike:
        # A train image that left its split has no row any more, but is worth seeing.
        both = [_any_picture(sources, index, digest) for digest in (first, second)]
        pairs.append((both[0], both[1]))
    return pairs


def _any_picture(sources: Sequence[OpenSource], index: _Index, digest: str) -> report.Picture:
    query = "SELECT source, name, image, split FROM items WHERE digest = ? ORDER BY source, name LIMIT 1"
    source, name, image, split = index.db.execute(query, (digest,)).fetchone()
    ref = json.loads(image)
    data = image_bytes(sources[source].tree, FileImage(*ref) if len(ref) == 1 else RawImage(*ref))
    return report.Picture(name=name, split=split or "left out", image=data)


# --- Processes and progress ---------------------------------------------------------------------------------


class _Workers:
    """Worker processes, or this process for one. Results come in order, a bounded number ahead."""

    def __init__(self, workers: int) -> None:
        self.count = workers
        self.pool = (
            ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) if workers > 1 else None
        )

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[..., _R], arguments: Iterable[tuple[object, ...]]) -> Iterator[_R]:
        if self.pool is None:
            for values in arguments:
                yield work(*values)
            return
        waiting: list[Future[_R]] = []
        try:
            for values in arguments:
                waiting.append(self.pool.submit(work, *values))
                if len(waiting) >= AHEAD * self.count:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        except BrokenProcessPool as error:
            raise Retryable("a worker process died", None, "it may lack memory: raise compute.resources") from error


class _Teller:
    """Passes progress on, at most once a second."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self.progress = progress
        self.stage_name, self.start, self.last = "", 0.0, 0.0

    def stage(self, name: str, percent: int) -> None:
        self.stage_name, self.start, self.last = name, time.monotonic(), 0.0
        self.progress(Progress(stage=name, percent=percent))

    def images(self, stage: str, done: int, total: int, first: int, last: int) -> None:
        """Progress of a stage that takes the run from `first` to `last` per cent."""
        if stage != self.stage_name:
            self.stage(stage, first)
        now = time.monotonic()
        if now - self.last < PROGRESS_SECONDS and done < total:
            return
        self.last = now
        seconds = max(now - self.start, 1e-6)
        rate = done / seconds
        eta = format_duration(timedelta(seconds=(total - done) / rate)) if rate else None
        self.progress(
            Progress(
                stage=stage,
                percent=round(first + (last - first) * min(done / total, 1)) if total else first,
                eta=eta,
                images_per_second=round(rate, 1),
                message=f"{done:,} of {total:,} images",
            )
        )
