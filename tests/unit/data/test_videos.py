"""Frames of videos: real images filmed by FFmpeg in this test, read back as a build reads them."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_support import BCCD, MEMBRANE, Build, detection
from fovea_api.dataset import Source
from fovea_api.errors import InvalidInput
from fovea_store import StoreFull, StorePath
from fovea_trainer.data.findings import Finding
from fovea_trainer.data.records import FileImage, SourceImage
from fovea_trainer.data.version import open_version
from fovea_trainer.data.videos import Videos, open_videos, sampled
from numpy.typing import NDArray

Pictures = Sequence[NDArray[np.uint8]]


def smears(count: int) -> Pictures:
    files = sorted((BCCD / "JPEGImages").glob("*.jpg"))[:count]
    return [np.asarray(cv2.imread(str(file)), np.uint8) for file in files]


def film(file: Path, pictures: Pictures, rate: float = 10) -> Path:
    """A video of pictures: MPEG-4 in .mp4 and .mkv, MJPEG in .avi."""
    file.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*("MJPG" if file.suffix == ".avi" else "mp4v"))
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, codec, rate, (width, height))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return file


def reader(place: Path, work: Path, **video: object) -> Videos:
    source = Source.model_validate({"name": "camera", "video": {"uri": f"file://{place}", **video}})
    return open_videos(source, work)


def read(place: Path, work: Path, **video: object) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of the frames, and kind and words of the findings."""
    found = list(reader(place, work, **video).scan())
    findings = [(str(each.kind), str(each)) for each in found if isinstance(each, Finding)]
    return [each.name for each in found if isinstance(each, SourceImage)], findings


def contents(place: Path, work: Path, **video: object) -> dict[str, bytes]:
    found = reader(place, work, **video)
    images = [each.image for each in found.scan() if isinstance(each, SourceImage)]
    return {each.path: (found.frames / each.path).read_bytes() for each in images if isinstance(each, FileImage)}


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_one_frame_an_interval_by_its_time_the_same_in_each_build(name: str, tmp_path: Path) -> None:
    pictures = smears(25)
    file = film(tmp_path / "videos" / name, pictures)
    first = contents(file, tmp_path / "1", everySeconds=0.7)
    assert list(first) == [f"{name}/{time:08}.jpg" for time in (0, 700, 1400, 2100)]
    for data, number in zip(first.values(), (0, 7, 14, 21), strict=True):
        assert cv2.PSNR(pixels(data), pictures[number]) > 35
        assert max(cv2.PSNR(pixels(data), other) for at, other in enumerate(pictures) if at != number) < 25
    assert contents(file, tmp_path / "2", everySeconds=0.7) == first


def patched(data: bytes, kind: bytes, content: bytes) -> bytes:
    """An MP4 whose track has another box of a kind; the media lie before, so that no offset changes."""
    at = data.rindex(kind) - 4
    old = struct.unpack(">I", data[at : at + 4])[0]
    grown = len(content) + 8 - old
    for outer in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = data.rindex(outer) - 4
        size = struct.unpack(">I", data[place : place + 4])[0]
        if place < at < place + size:
            data = data[:place] + struct.pack(">I", size + grown) + data[place + 4 :]
    return data[:at] + struct.pack(">I", len(content) + 8) + kind + content + data[at + old :]


def test_a_varying_rate_is_sampled_by_time_and_not_by_number(tmp_path: Path) -> None:
    """Ten frames in a second, then one a second: every tenth frame would be one of the first second and one of ten."""
    file = film(tmp_path / "a.mp4", smears(15))
    data = file.read_bytes()
    (tick,) = struct.unpack(">I", data[(at := data.rindex(b"stts") + 16) : at + 4])
    data = data.replace(b"edts", b"free")  # the edit list ends with the frames as they were
    file.write_bytes(patched(data, b"stts", struct.pack(">IIIIII", 0, 2, 10, tick, 5, 10 * tick)))
    assert read(file, tmp_path)[0] == [f"a.mp4/{time:08}.jpg" for time in (0, 1000, 2000, 3000, 4000, 5000)]


def test_the_rotation_of_the_metadata_is_applied(tmp_path: Path) -> None:
    pictures = smears(3)
    file = film(tmp_path / "a.mp4", pictures)
    data = file.read_bytes()
    at = data.rindex(b"tkhd") + 44  # behind version, times, numbers, duration, layer and volume: the matrix
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 480 << 16, 0, 1 << 30)
    file.write_bytes(data[:at] + quarter + data[at + 36 :])
    (shown,) = contents(file, tmp_path).values()
    assert cv2.PSNR(pixels(shown), cv2.rotate(pictures[0], cv2.ROTATE_90_CLOCKWISE)) > 35


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_a_video_that_breaks_off_gives_the_frames_before_and_the_time(name: str, tmp_path: Path) -> None:
    file = film(tmp_path / name, smears(60))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    frames, ((kind, words),) = read(file, tmp_path)
    assert frames == [f"{name}/{time:08}.jpg" for time in (0, 1000, 2000)]
    assert kind == "BrokenVideo"
    assert words.startswith(f"{name}: the video breaks off after 2.")
    assert words.endswith("of 6.0 seconds")


def test_what_is_no_video_opens_nothing(tmp_path: Path) -> None:
    """A playlist would make FFmpeg open what it names: here a real video beside it."""
    film(tmp_path / "secret.avi", smears(3))
    playlist = f"#EXTM3U\n#EXTINF:1,\nfile://{tmp_path}/secret.avi\n#EXT-X-ENDLIST\n".encode()
    headless = film(tmp_path / "h.mp4", smears(3)).read_bytes()[:-2000]
    files = {
        "list.mp4": playlist,
        "concat.mkv": b"ffconcat version 1.0\nfile secret.avi\n",
        "empty.mov": b"",
        "picture.avi": (BCCD / "JPEGImages/BloodImage_00001.jpg").read_bytes(),
        "headless.mp4": headless,
        "noise.mkv": b"\x1aE\xdf\xa3" + np.random.default_rng(0).bytes(5000),
    }
    for name, data in files.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    frames, findings = read(tmp_path / "in", tmp_path)
    assert frames == []
    assert [(kind, words.partition(":")[0]) for kind, words in findings] == [
        ("BrokenVideo", name) for name in sorted(files)
    ]


def test_blurred_frames_are_left_out_and_no_sharp_one(tmp_path: Path) -> None:
    """Two kinds of real images; of each video some frames are blurred by a known kernel."""
    moved = np.zeros((15, 15), np.float32)
    moved[7] = 1 / 15
    sharp = {
        "smears.avi": smears(12),
        "membrane.avi": [
            np.asarray(cv2.imread(str(file)), np.uint8) for file in sorted((MEMBRANE / "images").iterdir())[:12]
        ],
    }
    for name, pictures in sharp.items():
        film(
            tmp_path / "in" / name,
            [
                cv2.GaussianBlur(picture, (0, 0), 2)
                if number in (3, 8)
                else cv2.filter2D(picture, -1, moved)
                if number == 5
                else picture
                for number, picture in enumerate(pictures)
            ],
        )
    frames, findings = read(tmp_path / "in", tmp_path / "1", everySeconds=0.1, dropBlurred=True)
    blurred = {f"{name}/{time:08}.jpg" for name in sharp for time in (300, 500, 800)}
    assert {words.partition(":")[0] for kind, words in findings if kind == "BlurredFrame"} == blurred
    assert len(findings) == len(blurred)
    every, none = read(tmp_path / "in", tmp_path / "2", everySeconds=0.1)
    assert (set(every) - blurred, none) == (set(frames), [])


def test_max_frames_is_of_the_source_and_other_files_are_reported(tmp_path: Path) -> None:
    for name in ("b/1.mp4", "a.mp4", "c.avi"):
        film(tmp_path / "in" / name, smears(12))
    (tmp_path / "in/times.csv").write_text("1,2\n")
    frames, findings = read(tmp_path / "in", tmp_path, everySeconds=0.5, maxFrames=4)
    assert frames == [
        f"{name}/{time:08}.jpg" for name, times in (("a.mp4", (0, 500, 1000)), ("b/1.mp4", (0,))) for time in times
    ]
    assert findings == [
        ("MostFrames", "b/1.mp4: 4 frames are taken; the rest of this video and 1 videos after it are not read"),
        ("OtherFiles", ".: 1 file not used: other files: 1 (times.csv)"),
    ]


def test_a_full_disk_is_the_stores_error(tmp_path: Path) -> None:
    file = film(tmp_path / "a.avi", smears(3))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/00000000.jpg").symlink_to("/dev/full")
    with pytest.raises(StoreFull, match="no space is left"):
        list(sampled(file, "a.avi", tmp_path / "frames", 1, 10))


# --- In a build ------------------------------------------------------------------------------------------------


def with_camera(voc: Path, place: Path, **more: object) -> dict[str, object]:
    spec = detection(voc, **more)
    camera = {"name": "camera", "video": {"uri": f"file://{place}", "everySeconds": 0.5}}
    return {**spec, "sources": [*spec["sources"], camera]}  # type: ignore[misc]


def test_frames_wait_for_labels_and_change_no_version(build: Build, voc: Path, tmp_path: Path) -> None:
    film(tmp_path / "in/a.mp4", smears(20))
    result = build(with_camera(voc, tmp_path / "in", quality={"onInvalidLabel": "Fail"}))
    assert result.digest == build(detection(voc)).digest
    (waiting,) = (each for each in result.summary.findings if each.kind == "WaitsForLabel")
    assert (waiting.count, waiting.severity) == (4, "Note")
    assert waiting.message == "camera: a.mp4/00000000.jpg: nobody has labelled the image"


def test_labelled_frames_of_a_video_stay_in_one_split(build: Build, voc: Path, tmp_path: Path) -> None:
    """The labelled copies have names of their own: that they are of one video is known by their digests."""
    numbers = range(24)
    for video in range(3):
        film(tmp_path / f"in/{video}.avi", smears(24)[8 * video : 8 * video + 8], rate=2)
    frames = contents(tmp_path / "in", tmp_path / "frames", everySeconds=0.5)
    labels = sorted((voc / "Annotations").iterdir())
    for number, data, label in zip(numbers, frames.values(), labels, strict=True):
        (tmp_path / "reviewed/JPEGImages").mkdir(parents=True, exist_ok=True)
        (tmp_path / "reviewed/Annotations").mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(bytes(number)).hexdigest()[:12]
        (tmp_path / f"reviewed/JPEGImages/{name}.jpg").write_bytes(data)
        shutil.copy(label, tmp_path / f"reviewed/Annotations/{name}.xml")
    spec = with_camera(tmp_path / "reviewed", tmp_path / "in", splits={"keepNearDuplicatesTogether": False})
    result = build(spec)
    assert result.summary.images == 24
    assert not [each for each in result.summary.findings if each.kind == "WaitsForLabel"]
    version = open_version(result.artifact, tmp_path / "cache")
    of_video = {hashlib.sha256(data).hexdigest(): name.partition("/")[0] for name, data in frames.items()}
    splits = {(of_video[sample.digest], split) for split in version.manifest.splits for sample in version.split(split)}
    assert len(splits) == 3
    assert {split for _, split in splits} == {"train", "validation", "test"}


def test_frames_alone_are_no_dataset(build: Build, tmp_path: Path) -> None:
    film(tmp_path / "in/a.mp4", smears(20))
    spec = with_camera(tmp_path, tmp_path / "in")
    spec["sources"] = spec["sources"][1:]  # type: ignore[index]
    with pytest.raises(InvalidInput, match=r"no image has a label yet: 4 wait for one, such as a\.mp4/00000000\.jpg"):
        build(spec)
    assert not StorePath.parse(str(tmp_path / "store/dataset")).exists()


def test_a_time_that_jumps_back_is_told(tmp_path: Path) -> None:
    """As where a camera's clock is set, or recordings are joined: the same stream twice."""
    once = film(tmp_path / "once.ts", smears(20)).read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.ts").write_bytes(once * 2)
    names, findings = read(tmp_path / "in", tmp_path / "work")
    assert len(names) == len(read(tmp_path / "once.ts", tmp_path / "other")[0])
    assert [kind for kind, _ in findings] == ["BrokenVideo"]
    assert "the time jumps back by" in findings[0][1]
