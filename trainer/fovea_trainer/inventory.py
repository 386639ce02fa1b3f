"""What a store holds: dataset versions, model bundles, recorded frames, and what can be freed without losing one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from fovea_api.bundle import MANIFEST as BUNDLE
from fovea_api.bundle import BundleManifest
from fovea_api.engine import ENGINES
from fovea_api.engine import MANIFEST as ENGINE
from fovea_api.metrics import PRIMARY, SPLITS
from fovea_api.version import MANIFEST as VERSION
from fovea_serving.bundle import parse_manifest
from fovea_store import StorePath
from pydantic import JsonValue

from fovea_trainer.data.recordings import FOLDER as RECORDINGS
from fovea_trainer.data.recordings import is_frame
from fovea_trainer.data.version import read_manifest
from fovea_trainer.results import RESULT, read_result

WORK = ".work"
"""Folder of a local store in which runs by hand keep intermediate files."""
OLD_SECONDS = 24 * 3600.0
"""Untouched for so long, what no finished run has made is left over from one that broke off."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A dataset version or a model bundle in a store.

    Args:
        kind: What it is.
        name: Name of its Dataset or TrainingJob.
        digest: Its digest, by which its folder is named.
        uri: Where it lies.
        written: When its manifest was written.
        bytes: Size of all its files.
        summary: What it is, in a line.
        metrics: A bundle's metrics.
    """

    kind: Literal["Version", "Bundle"]
    name: str
    digest: str
    uri: str
    written: datetime
    bytes: int
    summary: str
    metrics: Mapping[str, float]

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form."""
        return {
            "kind": self.kind,
            "name": self.name,
            "digest": self.digest,
            "uri": self.uri,
            "written": self.written.isoformat(),
            "bytes": self.bytes,
            "summary": self.summary,
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True, slots=True)
class Recorded:
    """The frames that builds have recorded of a live stream: they stay until somebody deletes them."""

    place: StorePath
    bytes: int
    frames: int

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form."""
        return {"uri": self.place.uri, "bytes": self.bytes, "frames": self.frames}


def recorded(store: StorePath) -> list[Recorded]:
    """The recordings of all Datasets and sources, also of those that are gone."""
    datasets = [store / "dataset" / name / RECORDINGS for name in (store / "dataset").folders()]
    places = [folder / source for folder in datasets for source in folder.folders()]
    listed = ((place, place.files()) for place in places)
    return [
        Recorded(place, sum(entry.size for entry in files), sum(is_frame(entry.path) for entry in files))
        for place, files in listed
    ]


def artifacts(store: StorePath) -> list[Artifact]:
    """All complete versions and bundles, versions first, each by name and from new to old."""
    stored = [*_versions(store), *_bundles(store)]
    return sorted(stored, key=lambda each: (each.kind != "Version", each.name, -each.written.timestamp()))


def _versions(store: StorePath) -> Iterator[Artifact]:
    for name in (store / "dataset").folders():
        for digest, place, written in _complete(store / "dataset" / name, VERSION):
            manifest = read_manifest(place)
            splits = ", ".join(f"{count:,} {split}" for split, count in manifest.splits.items())
            summary = f"{manifest.task}, {len(manifest.classes)} classes, {splits}"
            yield Artifact("Version", name, digest, place.uri, written, size_of(place), summary, {})


def _bundles(store: StorePath) -> Iterator[Artifact]:
    for name in (store / "trainingjob").folders():
        for digest, place, written in _complete(store / "trainingjob" / name / "bundles", BUNDLE):
            manifest = parse_manifest((place / BUNDLE).read_bytes(), f"{place}/{BUNDLE}")
            metrics = manifest.metrics.exported
            yield Artifact("Bundle", name, digest, place.uri, written, size_of(place), describe(manifest), metrics)


def describe(manifest: BundleManifest) -> str:
    """A bundle in a line: architecture, input, and the task's metric on the best split that was measured."""
    size, metric = manifest.preprocessing.size, PRIMARY[manifest.task]
    names = [f"{split}/{metric}" for split in reversed(SPLITS)]
    measured = [f"{name} {manifest.metrics.exported[name]:.3f}" for name in names if name in manifest.metrics.exported]
    return ", ".join([manifest.architecture, f"{size.width} x {size.height}", *measured[:1]])


def _complete(folder: StorePath, manifest: str) -> Iterator[tuple[str, StorePath, datetime]]:
    """Digest and place of what has its manifest, and when that was written."""
    names = [name for name in folder.folders() if name.startswith("sha256-")]
    for path, written in folder.modified([f"{name}/{manifest}" for name in names]).items():
        name = path.partition("/")[0]
        yield name, folder / name, written


def size_of(place: StorePath) -> int:
    """Bytes of all files below."""
    return sum(entry.size for entry in place.files())


@dataclass(frozen=True, slots=True)
class Garbage:
    """What can be deleted: a folder of the store, its size, and why nobody needs it."""

    place: StorePath
    bytes: int
    why: str

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form."""
        return {"uri": self.place.uri, "bytes": self.bytes, "why": self.why}


def garbage(store: StorePath, now: datetime | None = None) -> list[Garbage]:
    """What a store can do without: no version, bundle, recorded frame, report or log is among it.

    That is the checkpoints and intermediate files of runs whose result is in the store, the engines of models that no
    bundle has any more, and of what no finished run has made, all that was not touched for OLD_SECONDS.
    """
    now = now or datetime.now(UTC)
    finished: set[str] = set()
    removable: list[Garbage] = []
    for kind in ("dataset", "trainingjob"):
        for name in (store / kind).folders():
            for run in (store / kind / name / "runs").folders():
                folder = store / kind / name / "runs" / run
                if (folder / RESULT).is_file() and read_result(folder) is not None:
                    finished.add(run)
                    removable += _rest(folder, ("checkpoints", "ray"), "checkpoints of a finished run")
    for folder, manifest in _places(store):
        removable += _unfinished(
            folder, [name for name in folder.folders() if name.startswith("sha256-")], manifest, now
        )
    for name in (store / "trainingjob").folders():
        removable += _engines(store / "trainingjob" / name, now)
    for run in (store / WORK).folders():
        if run in finished:
            removable += _rest(store / WORK, (run,), "intermediate files of a finished run")
        elif _untouched(store / WORK / run, now):
            removable += _rest(store / WORK, (run,), "intermediate files of a run that broke off")
    return removable


def _places(store: StorePath) -> Iterator[tuple[StorePath, str]]:
    for name in (store / "dataset").folders():
        yield store / "dataset" / name, VERSION
    for name in (store / "trainingjob").folders():
        yield store / "trainingjob" / name / "bundles", BUNDLE


def _engines(job: StorePath, now: datetime) -> Iterator[Garbage]:
    engines = job / ENGINES
    models = engines.folders()
    if not models:
        return
    bundles = job / "bundles"
    manifests = [bundles / digest / BUNDLE for digest, _, _ in _complete(bundles, BUNDLE)]
    known = {
        f"sha256-{file.sha256}" for each in manifests for file in parse_manifest(each.read_bytes(), str(each)).files
    }
    for model in models:
        if model in known:
            yield from _unfinished(engines / model, (engines / model).folders(), ENGINE, now)
        else:
            yield from _rest(engines, (model,), "engines of a model that is gone")


def _unfinished(folder: StorePath, names: Sequence[str], manifest: str, now: datetime) -> Iterator[Garbage]:
    whole = {path.partition("/")[0] for path in folder.modified([f"{name}/{manifest}" for name in names])}
    for name in names:
        if name not in whole and _untouched(folder / name, now):
            yield from _rest(folder, (name,), "was never finished")


def _rest(folder: StorePath, names: Sequence[str], why: str) -> list[Garbage]:
    there = set(folder.folders())
    return [Garbage(folder / name, size_of(folder / name), why) for name in names if name in there]


def _untouched(folder: StorePath, now: datetime) -> bool:
    """Whether nothing was written there for long. A folder without files takes no space, and may be that of a run that
    has just begun, or records a stream."""
    written = [entry.modified / 1e9 for entry in folder.files(missing_ok=True)]
    return bool(written) and now.timestamp() - max(written) > OLD_SECONDS
