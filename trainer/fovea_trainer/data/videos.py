"""Frames of recorded videos, as images that wait for a label.

A frame is the first one of its interval, by its timestamp and not by its number: the rate of a video may vary. It is
kept as JPEG of quality 95 without subsampled colours: 48 to 49 dB beside the decoded frame and a fifth of a PNG's size,
while the video's own compression costs more. It is called `<video>/<milliseconds>.jpg`, so that one file gives the same
names and, by the same decoder, the same bytes in each build. FFmpeg turns pictures as the video's metadata say.

All frames of one file are a group, which stays in one split.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from fovea_api.dataset import Source, Video
from fovea_api.errors import InvalidInput
from fovea_store import StorePath
from fovea_store.errors import explained
from numpy.typing import NDArray

from fovea_trainer.data.checks import MAX_PIXELS
from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.image_files import HEAD_BYTES, VIDEO_SUFFIXES, is_video
from fovea_trainer.data.records import FileImage, Labels, SourceImage
from fovea_trainer.data.sources import sha256_of, source_path, without_secrets
from fovea_trainer.data.unused import unused_files, unused_finding

JPEG = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
LESS_SHARP = 0.4
"""Share of the median sharpness of a video's frames below which a frame is blurred.

Measured on 100 blood smears, 60 of them as frames of an MPEG-4 video, and 30 electron micrographs: each sharp image has
at least 0.49 of the median of its kind; blurred by a Gaussian of 2 pixels none has more than 0.33, nor moved by 15.
A Gaussian of 1 pixel is mostly not found, nor is a blurred frame to which a coarse compression gave details of the one
before.
"""
NOISE_SIGMA = 1.0
"""Pixels of the Gaussian before the Laplacian: the noise of 8 bits and of compression is no sharpness."""
MISSING_SECONDS = 1.0
"""What a video may be shorter than it says: tools round, and count the sound that goes on."""


_F = TypeVar("_F")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame in a file."""

    milliseconds: int
    file: Path
    sharpness: float


@dataclass(frozen=True)
class Videos:
    """Reader of the frames of videos.

    Args:
        tree: The files of the source.
        frames: Local folder that receives the frames while they are read.
        settings: Which frames.
    """

    tree: Tree
    frames: Path
    settings: Video

    def scan(self) -> Iterator[SourceImage | Finding]:
        """The frames of each video by path, until there are `maxFrames`, and what is wrong with the videos.

        Raises StoreFull, StoreUnavailable.
        """
        shutil.rmtree(self.frames, ignore_errors=True)
        files = [*self.tree.with_suffix(*VIDEO_SUFFIXES)] if len(self.tree.files) > 1 else [*self.tree.files]
        left = self.settings.max_frames
        for number, path in enumerate(files):
            with _local(self.tree / path, self.frames.with_name("video")) as video:
                group = f"video {sha256_of(video)[:16]}"
                found = list(sampled(video, path, self.frames / path, self.settings.every_seconds, left))
            frames = [each for each in found if isinstance(each, Frame)]
            sharp = {frame.file: frame.sharpness for frame in frames}
            blurred = blurred_frames(sharp) if self.settings.drop_blurred else frozenset()
            yield from (each for each in found if isinstance(each, Finding))
            for frame in frames:
                name = frame.file.relative_to(self.frames).as_posix()
                if frame.file in blurred:
                    frame.file.unlink()
                    yield Finding(FindingKind.BLURRED_FRAME, name, "the frame is less sharp than others of its video")
                else:
                    yield SourceImage(name, FileImage(name), labels=Labels(waits=True), group=group)
            left -= len(frames)
            if not left:
                most, after = self.settings.max_frames, len(files) - number - 1
                words = f"{most} frames are taken; the rest of this video and {after} videos after it are not read"
                yield Finding(FindingKind.MOST_FRAMES, path, words)
                break
        if unused := unused_files(self.tree, set(files)):
            yield unused_finding(unused)

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")


def open_videos(source: Source, work: Path) -> Videos:
    """The reader of a source's videos. `work` is a local folder for its frames. Raises NotFound, InvalidInput."""
    assert source.video is not None
    root = source_path(source)
    videos = Tree(next(root.parents()), {root.name: root.size()}) if root.is_file() else Tree.of(root)
    if not videos.files:
        raise InvalidInput("the source is empty", without_secrets(root.uri), "check the path")
    return Videos(videos, work / "frames", source.video)


@contextmanager
def _local(video: StorePath, copy: Path) -> Iterator[Path]:
    """The video as a local file: itself, or a copy for the time."""
    if video.is_local:
        yield video.local_path()
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        video.download(copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def sampled(video: Path, shown: str, folder: Path, every_seconds: float, most: int) -> Iterator[Frame | Finding]:
    """Writes the first frame of each interval of a video; a video that breaks off is a finding after its frames.

    Args:
        video: A local file.
        shown: What findings call it.
        folder: Receives the frames.
        every_seconds: Length of an interval; the first begins with the video.
        most: Frames after which the rest is not read.

    Raises StoreFull, StoreUnavailable.
    """
    with video.open("rb") as file:
        if not is_video(file.read(HEAD_BYTES)):
            yield Finding(FindingKind.BROKEN_VIDEO, shown, "the file is no video of a known format")
            return
    capture = cv2.VideoCapture(str(video.absolute()), cv2.CAP_FFMPEG)
    try:
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not capture.isOpened() or not 0 < width * height <= MAX_PIXELS:
            words = "the video cannot be opened: its head is missing or broken, or it has no pictures that can be read"
            yield Finding(FindingKind.BROKEN_VIDEO, shown, words)
            return
        seconds, slot, taken, back = 0.0, -1, 0, 0.0
        while taken < most and capture.grab():
            milliseconds = round(capture.get(cv2.CAP_PROP_POS_MSEC))
            back = max(back, seconds - milliseconds / 1000)
            seconds = max(seconds, milliseconds / 1000)
            # Half a millisecond, for the rounded timestamps of rates such as 30 frames in a second.
            if (now := math.floor((milliseconds + 0.5) / (every_seconds * 1000))) <= slot:
                continue
            read, pixels = capture.retrieve()
            if not read:
                break
            slot, taken = now, taken + 1
            yield _written(np.asarray(pixels, np.uint8), milliseconds, folder)
        if back > MISSING_SECONDS:
            words = f"the time jumps back by {back:.1f} seconds; frames of a time that was there are not taken again"
            yield Finding(FindingKind.BROKEN_VIDEO, shown, words)
        stated = _seconds(capture)
        if taken < most and seconds + MISSING_SECONDS < stated - _interval(capture):
            words = f"the video breaks off after {seconds:.1f} of {stated:.1f} seconds"
            yield Finding(FindingKind.BROKEN_VIDEO, shown, words)
    finally:
        capture.release()


def jpeg_of(pixels: NDArray[np.uint8]) -> bytes:
    """The file of a frame.

    Args:
        pixels: `[H, W, 3]`, BGR.
    """
    _, data = cv2.imencode(".jpg", pixels, JPEG)
    return data.tobytes()


def _written(pixels: NDArray[np.uint8], milliseconds: int, folder: Path) -> Frame:
    file = folder / f"{milliseconds:08}.jpg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg_of(pixels))
    except OSError as error:
        raise explained(error, str(file)) from error
    return Frame(milliseconds, file, sharpness(pixels))


def _interval(capture: cv2.VideoCapture) -> float:
    """Mean time from frame to frame in seconds; 0: the file does not say."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return 1 / rate if rate > 0 else 0.0


def _seconds(capture: cv2.VideoCapture) -> float:
    """Length in seconds, as the file states it; 0: it does not."""
    return max(0.0, capture.get(cv2.CAP_PROP_FRAME_COUNT) * _interval(capture))


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the grey picture (Pech-Pacheco et al., Diatom autofocusing in brightfield
    microscopy, ICPR 2000), after a Gaussian of NOISE_SIGMA.

    Args:
        pixels: `[H, W, 3]`.
    """
    grey = cv2.GaussianBlur(pixels.astype(np.float32).mean(2), (0, 0), NOISE_SIGMA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def blurred_frames(frames: Mapping[_F, float]) -> frozenset[_F]:
    """The frames of a video that have less than LESS_SHARP of its median sharpness.

    The median is that of sharp frames as long as most are sharp; what is blurred as a whole is kept.

    Args:
        frames: The sharpness of each.
    """
    if not frames:
        return frozenset()
    least = LESS_SHARP * float(np.median([*frames.values()]))
    return frozenset(frame for frame, value in frames.items() if value < least)
