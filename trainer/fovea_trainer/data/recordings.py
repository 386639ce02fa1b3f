"""Frames of live streams: builds record them into the store, and read all that were recorded.

They lie as `<store>/dataset/<name>/recordings/<source>/<recording>/<time>.jpg`, the last two called by UTC, as JPEG
like the frames of videos (`videos`): what goes out for review stays the same file. They belong to the source's name,
whatever its address is. What somebody deletes there does not come back: no frame is taken twice.

All frames of a recording are a group, which stays in one split.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice

import cv2
import numpy as np
from fovea_api.dataset import Recipe, Source, Video
from fovea_api.run import Progress
from fovea_store import NotFound, StorePath

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.records import FileImage, Labels, SourceImage
from fovea_trainer.data.streams import PATIENCE, Patience, StreamRefused, StreamUnavailable, pictures, stream_of
from fovea_trainer.data.unused import unused_files, unused_finding
from fovea_trainer.data.videos import blurred_frames, jpeg_of, sharpness

FOLDER = "recordings"
"""In the folder of a Dataset."""
BEGUN = ".begun.json"
"""Beside the recordings of a source: which run has recorded last, and since when."""
FRAME = re.compile(r"\d{8}T\d{6}Z/\d{8}T\d{9}Z\.jpg")
JOINED = timedelta(minutes=10)
"""What is recorded less than that after the last frame belongs to the same recording: it may show the same."""
THREADS = 16
"""Frames that are read at once, where their sharpness is asked for."""

log = logging.getLogger(__name__)


def recordings_of(dataset: StorePath, source: Source) -> StorePath:
    """Where the frames of a live source lie. `dataset`: the Dataset's folder in the store."""
    return dataset / FOLDER / source.name


def is_frame(path: str) -> bool:
    """Whether a path below a source's recordings is that of a frame."""
    return FRAME.fullmatch(path) is not None


def frames_in(folder: StorePath) -> list[str]:
    """Paths of the frames that were recorded, in the order of their time."""
    return [entry.path for entry in folder.files(missing_ok=True) if is_frame(entry.path)]


def is_recorded(source: Source, dataset: StorePath) -> bool:
    """Whether all frames of a live source are there, so that builds record no more."""
    assert source.video is not None
    return len(frames_in(recordings_of(dataset, source))) >= source.video.max_frames


# --- Recording --------------------------------------------------------------------------------------------------


def record(
    recipe: Recipe, dataset: StorePath, run: str, report: Callable[[Progress], None], patience: Patience = PATIENCE
) -> tuple[Finding, ...]:
    """Records the live sources of a recipe, one after another, each for its `recordDuration` at most.

    An attempt of a run that has recorded before goes on within what is left of that time. A stream that gives no
    pictures is a finding where earlier frames are there.

    Args:
        recipe: The Dataset's recipe.
        dataset: The Dataset's folder in the store.
        run: Name of the run.
        report: Hears how far the recording is.
        patience: How long a stream is waited for.

    Raises:
        StreamRefused, StreamUnavailable: a stream gives no pictures, and no frame of it is there.
        InvalidInput: a Secret is not as it should be.
        Recoverable: the store fails. What was recorded is there.
    """
    live = [source for source in recipe.sources if source.live]
    return tuple(
        finding for source in live for finding in _record(source, recordings_of(dataset, source), run, report, patience)
    )


def _record(
    source: Source, folder: StorePath, run: str, report: Callable[[Progress], None], patience: Patience
) -> Iterator[Finding]:
    assert source.video is not None
    stored, every = frames_in(folder), source.video.every_seconds
    missing = source.video.max_frames - len(stored)
    if missing <= 0:
        log.info("source %s has its %d frames: nothing is recorded", source.name, len(stored))
        return
    since = _begun(folder, run)
    # What lies in the future is of a clock that was ahead, and would count for each run until then.
    past = [path for path in stored if _name(path) <= _stamp(datetime.now(UTC))]
    seconds = source.video.recorded_at_once.total_seconds() - every * sum(_name(path) >= since for path in past)
    if seconds <= 0:
        log.info("source %s was recorded by an earlier attempt", source.name)
        return
    recording = _recording(past)
    most, taken = min(missing, math.ceil(seconds / every)), 0
    log.info("recording source %s: up to %d frames to %s", source.name, most, folder / recording)
    try:
        with closing(pictures(stream_of(source), every, seconds, patience)) as live:
            for taken, pixels in enumerate(islice(live, missing), 1):
                (folder / recording / f"{_stamp(datetime.now(UTC))}.jpg").write_bytes(jpeg_of(pixels))
                report(Progress(stage="Recording", percent=0, message=f"{source.name}: {taken} of {most} frames"))
    except (StreamRefused, StreamUnavailable) as error:
        if not stored and not taken:
            raise
        words = f"{error.message}; {taken} of {most} frames were recorded, {len(stored)} are of earlier builds"
        log.warning("%s: %s", source.name, words)
        yield Finding(FindingKind.INTERRUPTED_STREAM, source.name, words, error.remedy or "")


def _begun(folder: StorePath, run: str) -> str:
    """When the first attempt of a run began to record, as frames are called by their time."""
    try:
        begun = json.loads((folder / BEGUN).read_text())
        if begun["run"] == run:
            return str(begun["since"])
    except (NotFound, ValueError, KeyError, TypeError):
        pass
    since = _stamp(datetime.now(UTC))
    (folder / BEGUN).write_text(json.dumps({"run": run, "since": since}))
    return since


def _recording(past: Sequence[str]) -> str:
    """The folder that receives the next frames: that of the last one where it is of a moment ago."""
    now = datetime.now(UTC)
    if past and _name(past[-1]) >= _stamp(now - JOINED):
        return past[-1].partition("/")[0]
    return f"{now:%Y%m%dT%H%M%SZ}"


def _stamp(time: datetime) -> str:
    """A time with milliseconds; the order of the texts is that of the times."""
    return f"{time:%Y%m%dT%H%M%S}{time.microsecond // 1000:03}Z"


def _name(path: str) -> str:
    return path.rpartition("/")[2]


# --- Reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recordings:
    """Reader of recorded frames.

    Args:
        tree: What lies in the source's folder.
        settings: Which frames.
    """

    tree: Tree
    settings: Video

    def scan(self) -> Iterator[SourceImage | Finding]:
        """The frames by their time, until there are `maxFrames`, and what else lies beside them.

        Raises Recoverable.
        """
        frames = [path for path in sorted(self.tree.files) if is_frame(path)]
        taken, rest = frames[: self.settings.max_frames], frames[self.settings.max_frames :]
        for recording, paths in groupby(taken, lambda path: path.partition("/")[0]):
            together = list(paths)
            blurred = self._blurred(together) if self.settings.drop_blurred else frozenset()
            group = f"recording {self.tree.root.name}/{recording}"
            for path in together:
                if path in blurred:
                    words = "the frame is less sharp than others of its recording"
                    yield Finding(FindingKind.BLURRED_FRAME, path, words)
                else:
                    yield SourceImage(path, FileImage(path), labels=Labels(waits=True), group=group)
        if rest:
            words = f"{len(taken)} frames are taken; {len(rest)} that were recorded later are not read"
            yield Finding(FindingKind.MOST_FRAMES, rest[0], words)
        if unused := unused_files(self.tree, set(frames)):
            yield unused_finding(unused)

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")

    def _blurred(self, paths: Sequence[str]) -> frozenset[str]:
        with ThreadPoolExecutor(THREADS) as pool:
            found = zip(paths, pool.map(self._sharpness, paths), strict=True)
            return blurred_frames({path: value for path, value in found if value is not None})

    def _sharpness(self, path: str) -> float | None:
        """None: it is no picture, or gone; the check of the images says so."""
        try:
            data = np.frombuffer((self.tree.root / path).read_bytes(), np.uint8)
        except NotFound:
            return None
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        return None if pixels is None else sharpness(np.asarray(pixels, np.uint8))


def open_recordings(source: Source, dataset: StorePath) -> Recordings:
    """The reader of what was recorded of a live source. `dataset`: the Dataset's folder in the store."""
    assert source.video is not None
    folder = recordings_of(dataset, source)
    try:
        return Recordings(Tree.of(folder), source.video)
    except NotFound:
        return Recordings(Tree(folder), source.video)
