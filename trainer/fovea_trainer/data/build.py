"""Builds a dataset version: read and check, split, write, report; the manifest, written last, is the commit.

Images stream through: what is kept is an index in a SQLite file of the work folder, and about 500 bytes of
memory an image. Each image is read twice, once to check it and once to write it, and its digest is compared.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version as package_version
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from fovea_api.common import Task
from fovea_api.dataset import MOST_MASK_CLASSES, Recipe, Source, empty_sources, excluded, unsupported
from fovea_api.errors import CorruptData, InvalidInput, refuse
from fovea_api.run import BundleInput, Progress, VersionInput
from fovea_api.version import MANIFEST, DatasetSummary, DatasetVersion, Severity
from fovea_store import NotFound, StorePath

from fovea_trainer.data import report
from fovea_trainer.data.coco_export import write_coco
from fovea_trainer.data.draft import Draft, draft_version
from fovea_trainer.data.findings import LOST_IMAGE, LOST_LABEL, Finding, FindingKind, Tally
from fovea_trainer.data.formats import Options, Tree, open_reader
from fovea_trainer.data.formats.unreviewed import Unreviewed
from fovea_trainer.data.index import Index
from fovea_trainer.data.learnable import unknown_classes
from fovea_trainer.data.pictures import pair_pictures, pictures, sample_digests
from fovea_trainer.data.prelabel import prelabel
from fovea_trainer.data.progress import ProgressMeter
from fovea_trainer.data.read import OpenSource, check_chunk
from fovea_trainer.data.recordings import Recordings, open_recordings
from fovea_trainer.data.records import NamedClass, SourceImage
from fovea_trainer.data.shards import write_shards
from fovea_trainer.data.sources import open_source, program_field
from fovea_trainer.data.splits import SPLITS, Kept
from fovea_trainer.data.unused import unused_files
from fovea_trainer.data.version import ASSIGNMENTS, REPORT, STATISTICS, read_manifest
from fovea_trainer.data.videos import Videos, open_videos
from fovea_trainer.data.workers import Workers

CHUNK = 32
"""Images that a worker is given at once."""
EXCLUDE_BYTES = 256 << 20
SHOWN_FINDINGS = 10
"""Findings that an error lists."""

log = logging.getLogger(__name__)


class NothingLabelled(InvalidInput):
    """There are images, and all of them wait for a label."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build has made, or adopted."""

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
    model: BundleInput | None = None,
    work_dir: Path | str,
    workers: int = 1,
    progress: Callable[[Progress], None] = lambda _: None,
    recorded: Sequence[Finding] = (),
) -> BuildResult:
    """Builds the version that the recipe describes, or finds it in the store.

    The version's digest is that of its content: images, labels, classes, splits and the assignments kept from
    the parent; not of places, times, order or machines.

    Args:
        recipe: What to build.
        name: Name of the Dataset: the version lies in `<store_root>/dataset/<name>/<digest>`.
        store_root: Root of the store.
        parent: The version whose split assignments are kept.
        model: The bundle that predicts labels where the recipe has `prelabel`. None: nothing is predicted.
        work_dir: Local folder for the index and what must be unpacked.
        workers: Processes that read and check.
        progress: Called at most once a second with how far the build is.
        recorded: What was wrong with live streams; of these, what lies in the store is read (see `recordings.record`).

    Raises:
        NotSupported: the recipe asks for what this version cannot do.
        InvalidInput: a source is wrong, or a label is and the recipe says Fail; a class is too rare.
        Retryable: a store failed, or a source changed while it was read.
    """
    work, dataset = Path(work_dir), StorePath.parse(store_root) / "dataset" / name
    with _opened(recipe, work, workers, progress, dataset) as reading:
        _note_empty(empty_sources(recipe, has_model=model is not None), reading.index)
        for finding in recorded:
            reading.index.add_source_finding(finding)
        draft = _draft(recipe, reading, parent, name, model)
        _log_draft(draft)
        target = dataset / draft.digest
        try:
            stored = read_manifest(target)
            log.info("the store has this version already: %s", target)
            # What was not used is no part of a version, and may be another than when it was written.
            return _result(stored.model_copy(update={"findings": draft.summaries()}), target, adopted=True)
        except NotFound:
            pass
        manifest = _write(recipe, name, draft, reading, target, work, parent)
        reading.meter.stage("Done", 100)
    log.info("version with its report written: %s", target)
    return _result(manifest, target, adopted=False)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a build would find and make."""

    findings: tuple[Tally, ...]
    summary: DatasetSummary | None
    """The version that would be built; None where the build would be refused."""
    refusal: InvalidInput | None
    """Why it would be refused."""


def check_dataset(
    recipe: Recipe,
    *,
    work_dir: Path | str,
    workers: int = 1,
    progress: Callable[[Progress], None] = lambda _: None,
) -> CheckResult:
    """Reads and checks all that `build_dataset` would, and writes nothing; arguments and errors are the same.

    No label is predicted: what waits for one is left out, as where `prelabel` has no model. No stream is recorded, nor
    is it known where its frames lie. A source that cannot be opened at all raises InvalidInput; what is wrong with its
    content is in the result.
    """
    with _opened(recipe, Path(work_dir), workers, progress) as reading:
        live = [source.name for source in recipe.sources if source.live]
        # Of a model it cannot be said that there is none: a check asks for none.
        _note_empty(empty_sources(recipe, has_model=True), reading.index)
        _note_empty([(name, "builds record its stream, and a check does not") for name in live], reading.index)
        try:
            draft = _draft(recipe, reading)
        except InvalidInput as refusal:
            return CheckResult(reading.index.tallies(recipe.quality.max_faulty_images), None, refusal)
    summary = DatasetSummary(
        version=draft.digest,
        images=draft.statistics.images,
        annotations=draft.statistics.annotations,
        splits=draft.splits(),
        classes=draft.statistics.class_summaries(),
        quality=draft.quality,
        findings=draft.summaries(),
    )
    return CheckResult(draft.findings, summary, None)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A build at work."""

    sources: tuple[OpenSource, ...]
    index: Index
    pool: Workers
    meter: ProgressMeter
    work: Path


@contextmanager
def _opened(
    recipe: Recipe,
    work: Path,
    workers: int,
    progress: Callable[[Progress], None],
    dataset: StorePath | None = None,
) -> Iterator[_Reading]:
    refuse(unsupported(recipe))
    work.mkdir(parents=True, exist_ok=True)
    meter = ProgressMeter(progress)
    meter.stage("Reading", 0)
    opened = (_open(recipe, source, work / "sources" / source.name, dataset) for source in recipe.sources)
    sources = tuple(source for source in opened if source is not None)
    with closing(Index(work / "index.sqlite")) as index, Workers(workers) as pool:
        yield _Reading(sources, index, pool, meter, work)


def _open(recipe: Recipe, source: Source, work: Path, dataset: StorePath | None) -> OpenSource | None:
    """None: it gives nothing. `dataset`: where streams are recorded to."""
    if source.captures is not None or (source.live and dataset is None):
        return None
    options = Options.of(recipe, source)
    if source.live and dataset is not None:
        recordings = open_recordings(source, dataset)
        return OpenSource(source.name, Tree(recordings.tree.root), recordings, options)
    if source.video is not None:
        videos = open_videos(source, work)
        return OpenSource(source.name, Tree(StorePath.parse(str(videos.frames))), videos, options)
    assert source.layout is not None
    tree = open_source(source, work)
    if tree.unreviewed and len(tree.images) == len(tree.files):
        return OpenSource(source.name, tree, Unreviewed(tree), options)
    program = program_field(source) if source.generator is not None else ""
    return OpenSource(source.name, tree, open_reader(source.layout, tree, options), options, program)


def _note_empty(sources: Iterable[tuple[str, str]], index: Index) -> None:
    for source, why in sources:
        log.warning("%s is empty: %s", source, why)
        index.add_finding(Finding(FindingKind.EMPTY_SOURCE, source, why))


def _draft(
    recipe: Recipe,
    reading: _Reading,
    parent: VersionInput | None = None,
    name: str = "",
    model: BundleInput | None = None,
) -> Draft:
    """Reads and checks the sources, labels beforehand what has no label, and chooses images and splits."""
    index = reading.index
    left_out = _excluded(recipe)
    kept, kept_rows = _parent(recipe, parent)
    _read(reading.sources, index, reading.pool, left_out, reading.meter)
    exported: Mapping[str, str] = {}
    if recipe.prelabel is not None and model is not None:
        exported = prelabel(recipe, name, model, index, reading.sources, reading.work, reading.meter)
    index.add_waiting(reading.sources, exported)
    _refuse(recipe, index, exported)
    classes = recipe.classes or _classes(reading.sources, index)
    if recipe.task == Task.SEMANTIC_SEGMENTATION and len(classes) > MOST_MASK_CLASSES:
        message = f"the sources have {len(classes)} classes; masks hold {MOST_MASK_CLASSES}"
        raise InvalidInput(message, "spec.classes", "merge some by classMap")
    draft = draft_version(recipe, classes, reading.sources, index, reading.pool, kept, kept_rows)
    return draft


def _log_draft(draft: Draft) -> None:
    statistics = draft.statistics
    splits = ", ".join(f"{statistics.splits[split]} {split}" for split in SPLITS if statistics.splits[split])
    log.info("%d images with %d annotations: %s", statistics.images, statistics.annotations, splits)
    for tally in draft.findings:
        if tally.severity is not Severity.NOTE:
            log.warning("%s, %d times (%s): %s", tally.kind.heading, tally.count, tally.kind.done,
                        tally.summary().message)  # fmt: skip


def _result(manifest: DatasetVersion, target: StorePath, adopted: bool) -> BuildResult:
    return BuildResult(manifest.summary(), target.uri, manifest.digest, (target / REPORT).uri, adopted)


def _classes(sources: Sequence[OpenSource], index: Index) -> tuple[str, ...]:
    """The classes where the recipe has none: those that masks have, shown or not, else the sorted names of the labels.

    Raises InvalidInput where sources do not agree about what the pixels of masks mean.
    """
    named = {tuple(source.options.mask_classes) for source in sources if source.options.mask_classes}
    shown = tuple(index.classes())
    if not named:
        return shown
    every = sorted({*shown, *(name for each in named for name in each)})
    if len(named) > 1 or len(every) > len(next(iter(named))):
        raise InvalidInput(
            f"the sources have different classes: {', '.join(every)}",
            "spec.classes",
            "list them, so that the pixels of all masks mean the same",
        )
    return named.pop()


# --- Inputs -------------------------------------------------------------------------------------------------


def _excluded(recipe: Recipe) -> frozenset[str]:
    if recipe.exclude is None:
        return frozenset()
    return excluded(StorePath.parse(recipe.exclude.uri).read_text(EXCLUDE_BYTES))


def _parent(recipe: Recipe, parent: VersionInput | None) -> tuple[Kept, list[dict[str, str]]]:
    """The assignments that are kept, and the parent's rows."""
    if parent is None or not recipe.splits.keep_assignments:
        return Kept(), []
    version = StorePath.parse(parent.artifact)
    if (stored := read_manifest(version)).digest != parent.version:
        raise CorruptData(f"the version there is {stored.digest}, not {parent.version}", version.uri, "check the store")
    with (version / ASSIGNMENTS).open() as file:
        rows: list[dict[str, str]] = pq.read_table(file).to_pylist()
    groups = {row["group"]: row["split"] for row in rows if row["group"]}
    return Kept({row["digest"]: row["split"] for row in rows}, groups), rows


# --- Stage 1: read and check --------------------------------------------------------------------------------


def _read(
    sources: Sequence[OpenSource], index: Index, pool: Workers, left_out: frozenset[str], meter: ProgressMeter
) -> None:
    total = sum(len(source.tree.files) for source in sources)
    done = 0
    for number, source in enumerate(sources):
        files = source.reader.tree if isinstance(source.reader, Videos | Recordings) else source.tree
        log.info("reading source %s: %d files in %s", source.name, len(files.files), files.root)
        used: set[str] = set()
        images = _images(source, index, used)
        for checked in pool.map(check_chunk, ((source, chunk) for chunk in _chunks(images, CHUNK))):
            for item in checked:
                digest = item.digest or item.waiting
                if digest and (digest in left_out or item.name in left_out):
                    item = replace(item, digest="", waiting="", findings=())
                    index.add_finding(Finding(FindingKind.EXCLUDED, f"{source.name}: {item.name}", "listed in exclude"))
                index.add(number, item, source.name)
            done += len(checked)
            meter.images("Checking", done, max(done, total), 0, 60)
        index.add_unused(source.name, unused_files(source.tree, used))
    index.add_only_named()
    index.commit()


def _images(source: OpenSource, index: Index, used: set[str]) -> Iterator[SourceImage]:
    """The images of a source, whose files are noted as used; what is wrong with the source itself goes to the index."""
    for item in _scanned(source):
        if isinstance(item, SourceImage):
            used.update(item.files())
            yield item
        elif isinstance(item, NamedClass):
            if not source.options.classes:
                mapped = source.options.class_map.get(item.name, item.name)
                index.named.setdefault(f"{source.name}: {item.place}", {})[item.name] = mapped
        else:
            index.add_source_finding(replace(item, place=f"{source.name}: {item.place}"))


def _scanned(source: OpenSource) -> Iterator[SourceImage | Finding | NamedClass]:
    """What the reader of a source gives. Where it can read nothing that a program has written, the program is named."""
    try:
        yield from source.reader.scan()
    except InvalidInput as error:
        if not source.program:
            raise
        message = f"what the program has written cannot be read: {error}"
        raise InvalidInput(message, source.program, "correct the program, or the format") from error


def _chunks(items: Iterable[SourceImage], size: int) -> Iterator[list[SourceImage]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _refuse(recipe: Recipe, index: Index, exported: Mapping[str, str]) -> None:
    """Fails where the recipe says so, or nothing has a label; `exported`: by digest, where images wait for review."""
    for policy, kinds, what in (
        (recipe.quality.on_corrupt_image, LOST_IMAGE, "images are corrupt"),
        (recipe.quality.on_invalid_label, LOST_LABEL, "labels are invalid"),
    ):
        if policy == "Fail" and (count := sum(index.counts[kind] for kind in kinds)):
            raise InvalidInput(
                f"{count} {what}: {_first(index.findings(kinds))}",
                "spec.quality",
                "repair them, or set Drop to leave them out",
            )
    unknown = index.subjects[FindingKind.UNKNOWN_CLASS]
    if unknown and not index.any():
        raise unknown_classes(recipe, unknown)
    lost = any(index.counts[kind] for kind in (*LOST_IMAGE, *LOST_LABEL) if kind != FindingKind.UNLABELLED)
    if not index.any() and not lost and (waiting := list(index.waiting())):
        places = sorted({exported[each.digest] for each in waiting if each.digest in exported})
        review = f"; for review they lie in {', '.join(places[:SHOWN_FINDINGS])}" if places else ""
        raise NothingLabelled(
            f"no image has a label yet: {len(waiting)} wait for one, such as {waiting[0].name}{review}",
            "spec.sources",
            "label them, and give the labels with the same image files as a source",
        )
    if not index.any():
        findings = index.findings(tuple(FindingKind))
        words = _first(findings) or "the sources are empty"
        remedy = findings[0].advice if findings else None
        raise InvalidInput(f"no image with a usable label is left: {words}", "spec.sources", remedy)
    allowed = recipe.quality.max_faulty_images
    if index.faulty > max(allowed * index.read, 1 if allowed else 0):
        faulty = _first(index.findings([kind for kind in FindingKind if kind.faulty]))
        raise InvalidInput(
            f"{index.faulty} of {index.read} images are faulty, more than {allowed:.0%}: {faulty}",
            "spec.quality.maxFaultyImages",
            "repair them, or raise the share to build without them",
        )


def _first(findings: Sequence[Finding]) -> str:
    shown = [str(finding) for finding in findings[:SHOWN_FINDINGS]]
    return "; ".join(shown + (["…"] if len(findings) > SHOWN_FINDINGS else []))


# --- Stage 3: write -----------------------------------------------------------------------------------------


def _write(
    recipe: Recipe,
    name: str,
    draft: Draft,
    reading: _Reading,
    target: StorePath,
    work: Path,
    parent: VersionInput | None,
) -> DatasetVersion:
    """Writes the draft to the store; the manifest, written last, is the commit."""
    sources, index, meter = reading.sources, reading.index, reading.meter
    staging = work / "shards"
    staging.mkdir(exist_ok=True)
    shards = write_shards(draft, sources, index, reading.pool, target, staging, meter)
    for split in SPLITS:
        if draft.statistics.splits[split]:
            file = staging / f"{split}.json"
            write_coco(draft, sources, index, split, file)
            (target / f"coco/{split}.json").upload(file)
            file.unlink()
    meter.stage("Reporting", 96)
    pq.write_table(draft.assignments, work / ASSIGNMENTS, compression="ZSTD", write_statistics=False)
    (target / ASSIGNMENTS).upload(work / ASSIGNMENTS)
    (target / STATISTICS).write_text(json.dumps(draft.statistics.to_dict(), indent=1))
    manifest = DatasetVersion(
        task=recipe.task,
        classes=draft.classes,
        splits=draft.splits(),
        images=draft.statistics.images,
        annotations=draft.statistics.annotations,
        shards=shards,
        problem=recipe.problem.stated(),
        provenance=draft.provenance,
        parent=parent.version if parent else None,
        quality=draft.quality,
        findings=draft.summaries(),
        class_summaries=draft.statistics.class_summaries(),
        metadata={"fovea": package_version("fovea"), "pyarrow": pa.__version__, "opencv": cv2.__version__},
        digest=draft.digest,
    )
    page = report.render_quality_report(
        name,
        manifest,
        draft.statistics,
        report.Contents(
            findings=draft.findings,
            samples=pictures(draft, sources, index, sample_digests(draft, index)),
            pairs=pair_pictures(draft, sources, index),
            across=draft.across,
            deviation=draft.deviation,
        ),
    )
    (target / REPORT).write_text(page)
    (target / MANIFEST).write_text(manifest.model_dump_json(indent=1, exclude_none=True))
    return manifest
