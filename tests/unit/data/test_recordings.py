"""Frames of live streams: FFmpeg reads a real RTSP server on loopback, and builds keep what it shows."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from camera import BASIC, DIGEST, DIGESTS, Camera
from dataset_support import BCCD, Build, Listener, detection
from fovea_api.dataset import Recipe, Source
from fovea_api.errors import Interrupted
from fovea_api.run import Progress, RunInputs, RunOwner, RunResult, RunSpec, RunType, run_identity, run_name
from fovea_store import StorePath
from fovea_trainer.data.build import check_dataset
from fovea_trainer.data.findings import Finding
from fovea_trainer.data.recordings import BEGUN, frames_in, open_recordings, record, recordings_of
from fovea_trainer.data.records import SourceImage
from fovea_trainer.data.streams import Patience, StreamRefused, StreamUnavailable
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.inventory import garbage, recorded
from fovea_trainer.local import build_manifest
from fovea_trainer.run import execute
from numpy.typing import NDArray

SMEARS = [np.asarray(cv2.imread(str(file)), np.uint8) for file in sorted((BCCD / "JPEGImages").glob("*.jpg"))[:6]]
PATIENT = Patience(pause=0.01)
IMPATIENT = Patience(away=0.5, pause=0.01)
"""Of who knows that no picture comes."""
AT_ONCE: dict[str, Any] = {"everySeconds": 0.001, "recordDuration": "1h"}
"""What is recorded ends with `maxFrames`, however slow the machine is."""


@pytest.fixture
def camera() -> Iterator[Camera]:
    with Camera(SMEARS) as camera:
        yield camera


def source(uri: str, **video: object) -> Source:
    return Source.model_validate({"name": "hall", "video": {"uri": uri, **video}})


class Recorder:
    """Records a source into a folder as the runs of a Dataset do."""

    def __init__(self, folder: Path) -> None:
        self.dataset = StorePath.parse(str(folder / "store/dataset/d"))

    def __call__(
        self,
        uri: str,
        run: str = "r-1",
        report: Callable[[Progress], None] = lambda _: None,
        patience: Patience = PATIENT,
        **video: object,
    ) -> tuple[Finding, ...]:
        recipe = Recipe.model_validate({"task": "Detection", "sources": [source(uri, **video).to_dict()]})
        return record(recipe, self.dataset, run, report, patience)

    @property
    def folder(self) -> Path:
        return recordings_of(self.dataset, source("rtsp://c/s")).local_path()

    @property
    def frames(self) -> dict[str, bytes]:
        return {path: (self.folder / path).read_bytes() for path in frames_in(StorePath.parse(str(self.folder)))}

    def scan(self, **video: object) -> tuple[dict[str, str], list[Finding]]:
        """Groups of the frames by name, and the findings, as a build reads them."""
        found = list(open_recordings(source("rtsp://c/s", **video), self.dataset).scan())
        images = {each.name: each.group for each in found if isinstance(each, SourceImage)}
        return images, [each for each in found if isinstance(each, Finding)]


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


# --- Recording --------------------------------------------------------------------------------------------------


def test_what_the_camera_shows_is_kept_until_there_are_max_frames(recorder: Recorder, camera: Camera) -> None:
    assert recorder(camera.uri, maxFrames=3, **AT_ONCE) == ()
    first = recorder.frames
    assert len(first) == 3
    shown = [max(range(len(SMEARS)), key=lambda at: cv2.PSNR(pixels(data), SMEARS[at])) for data in first.values()]
    assert all(cv2.PSNR(pixels(data), SMEARS[at]) > 35 for data, at in zip(first.values(), shown, strict=True))
    recorder(camera.uri, "r-2", maxFrames=5, **AT_ONCE)
    assert len(recorder.frames) == 5
    assert recorder.frames.items() >= first.items()
    played = camera.played
    recorder(camera.uri, "r-3", maxFrames=5, **AT_ONCE)
    assert camera.played == played == 2, "a camera whose frames are there is left alone"


def test_a_run_records_its_duration_once_however_often_it_is_tried(recorder: Recorder, camera: Camera) -> None:
    """Two frames in two seconds: one before the pod dies, one after it, and none in a third attempt."""

    def dies(_: Progress) -> None:
        raise Interrupted("the pod was asked to stop")

    settings = {"everySeconds": 1, "recordDuration": "2s"}
    with pytest.raises(Interrupted):
        recorder(camera.uri, report=dies, **settings)
    for expected in (2, 2):
        recorder(camera.uri, **settings)
        assert len(recorder.frames) == expected
    recorder(camera.uri, "r-2", everySeconds=1, recordDuration="1s")
    assert len(recorder.frames) == 3
    assert len({path.partition("/")[0] for path in recorder.frames}) == 1, "a moment later is the same recording"


def test_a_stream_that_breaks_off_is_connected_anew(recorder: Recorder) -> None:
    with Camera(SMEARS, each=20) as camera:
        assert recorder(camera.uri, maxFrames=30, **AT_ONCE) == ()
        assert camera.played > 1
    assert len(recorder.frames) == 30


def test_a_camera_that_went_away_stops_nothing_once_there_are_frames(recorder: Recorder, camera: Camera) -> None:
    recorder(camera.uri, maxFrames=2, **AT_ONCE)
    before = recorder.frames
    camera.__exit__(None, None, None)
    (finding,) = recorder(camera.uri, "r-2", patience=IMPATIENT, maxFrames=9, **AT_ONCE)
    host = camera.uri.removeprefix("rtsp://").partition("/")[0]
    assert (finding.kind, finding.place) == ("InterruptedStream", "hall")
    assert f"the camera at {host} cannot be reached: Connection refused; 0 of 7 frames" in finding.message
    assert recorder.frames == before


def test_what_came_before_the_camera_went_away_is_kept(recorder: Recorder) -> None:
    with Camera(SMEARS, each=20) as camera:

        def close(progress: Progress) -> None:
            if camera.played == 1:
                camera.played += 1
                camera.__exit__(None, None, None)

        (finding,) = recorder(camera.uri, report=close, patience=IMPATIENT, maxFrames=100, **AT_ONCE)
    assert "cannot be reached" in finding.message
    assert 0 < len(recorder.frames) <= 20


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\xff" * 300, b"", None])
def test_what_is_no_camera_is_told_in_words(answer: bytes | None, recorder: Recorder) -> None:
    """Another server, noise, one that closes, and one that is silent."""
    server = socket.create_server(("127.0.0.1", 0))
    open_ones = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            open_ones.append(connection)
            if answer is not None:
                connection.recv(4096)
                connection.sendall(answer)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    words = {None: "cannot be reached: timed out", b"": "closes the connection"}
    uri = f"rtsp://127.0.0.1:{server.getsockname()[1]}/s"
    silent = Patience(picture=0.5, away=0.5, answer=0.5)
    with pytest.raises((StreamRefused, StreamUnavailable)) as told:
        recorder(uri, patience=silent if answer is None else IMPATIENT)
    assert words.get(answer, "does not speak RTSP") in told.value.message
    assert told.value.location == "spec.sources[hall].video.uri"
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        ("404 Not Found", "has no stream at this path now", StreamUnavailable),
        ("503 Service Unavailable", "answers 503", StreamUnavailable),
        ("403 Forbidden", "asks for a user and a password", StreamRefused),
    ],
)
def test_what_the_camera_answers_is_told_and_not_its_path(
    status: str, words: str, kind: type[Exception], recorder: Recorder
) -> None:
    with Camera(SMEARS, status=status) as camera, pytest.raises(kind, match=words) as told:
        recorder(camera.uri, patience=IMPATIENT)
    assert "channel" not in str(told.value)


@pytest.mark.parametrize("asks", [BASIC, DIGEST, DIGESTS], ids=["Basic", "Digest", "newer Digest"])
def test_what_a_camera_answers_to_its_user_is_told(
    asks: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it asks for one first is no refusal: a camera that stands still for a while would end a run for good."""
    monkeypatch.setenv("RTSP_USERNAME", "user")
    monkeypatch.setenv("RTSP_PASSWORD", "pass")
    for camera, words in (
        (Camera(SMEARS, "user:pass", "404 Not Found", asks=asks), "has no stream at this path now"),
        (Camera(SMEARS, "user:pass", each=0, asks=asks), "sends no picture that can be read"),
    ):
        with camera, pytest.raises(StreamUnavailable, match=words):
            recorder(camera.uri, patience=IMPATIENT)
    with Camera(SMEARS, "user:other", asks=asks) as camera, pytest.raises(StreamRefused, match="user of the Secret"):
        recorder(camera.uri, patience=IMPATIENT)
    with Camera(SMEARS, "user:pass", asks=asks) as camera:
        assert recorder(camera.uri, maxFrames=1, **AT_ONCE) == ()


def test_a_port_that_is_none_is_told(recorder: Recorder) -> None:
    with pytest.raises(StreamRefused, match="a port that is none"):
        recorder("rtsp://camera:port/s")


def test_the_password_is_the_secrets_and_in_no_message(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Signs that mean something in an address, and a newline at the end as `kubectl create secret` takes it."""
    secret = tmp_path / "secrets/hall-keys"
    secret.mkdir(parents=True)
    monkeypatch.setenv("FOVEA_SECRETS_ROOT", str(tmp_path / "secrets"))
    with Camera(SMEARS, login="us@r:p/ä#% :x") as camera:
        given = {"name": "hall", "secretRef": {"name": "hall-keys"}}
        recipe = Recipe.model_validate(
            {"task": "Detection", "sources": [given | {"video": {"uri": camera.uri, "maxFrames": 1, **AT_ONCE}}]}
        )

        def attempt(**keys: str | bytes) -> str:
            for name, value in keys.items():
                (secret / name).write_bytes(value if isinstance(value, bytes) else value.encode())
            try:
                return str(record(recipe, recorder.dataset, "r-1", lambda _: None, PATIENT))
            except Exception as error:
                return str(error)

        assert "the Secret has no RTSP_USERNAME (add it)" in attempt()
        wrong = attempt(RTSP_USERNAME="us@r", RTSP_PASSWORD="hunter-2")
        assert "gives no picture to the user of the Secret (check RTSP_USERNAME and RTSP_PASSWORD" in wrong
        assert "to the user of the Secret" in attempt(RTSP_PASSWORD=b"\xff")
        assert attempt(RTSP_PASSWORD="p/ä#% :x\n") == "()"
        assert len(recorder.frames) == 1
        (finding,) = recorder(camera.uri, maxFrames=2, **AT_ONCE)
        assert "asks for a user and a password; 0 of 1 frames" in finding.message
        assert finding.advice == "name a Secret with RTSP_USERNAME and RTSP_PASSWORD in secretRef"
    printed = wrong + "".join(capfd.readouterr())
    assert "hunter" not in printed
    assert "p%2F" not in printed


# --- Reading ----------------------------------------------------------------------------------------------------


def keep(recorder: Recorder, path: str, picture: NDArray[np.uint8]) -> str:
    (recorder.folder / path).parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(recorder.folder / path), picture)
    return path


def stamp(time: datetime) -> str:
    return f"{time:%Y%m%dT%H%M%S}000Z"


def test_a_recording_is_a_group_and_goes_on_where_the_last_frame_is_of_a_moment_ago(
    recorder: Recorder, camera: Camera
) -> None:
    now = datetime.now(UTC)
    old, recent = now - timedelta(days=1), now - timedelta(minutes=5)
    keep(recorder, f"{old:%Y%m%dT%H%M%SZ}/{stamp(old)}.jpg", SMEARS[0])
    recorder(camera.uri, maxFrames=2, **AT_ONCE)
    groups = list(recorder.scan()[0].values())
    assert groups[0] == f"recording hall/{old:%Y%m%dT%H%M%SZ}"
    assert len(set(groups)) == 2, "of another day"
    shutil.rmtree(recorder.folder)
    keep(recorder, f"{recent:%Y%m%dT%H%M%SZ}/{stamp(recent)}.jpg", SMEARS[0])
    recorder(camera.uri, maxFrames=2, **AT_ONCE)
    assert [*recorder.scan()[0].values()] == [f"recording hall/{recent:%Y%m%dT%H%M%SZ}"] * 2


def test_a_clock_that_was_ahead_holds_up_no_recording(recorder: Recorder, camera: Camera) -> None:
    ahead = datetime.now(UTC) + timedelta(days=400)
    keep(recorder, f"{ahead:%Y%m%dT%H%M%SZ}/{stamp(ahead)}.jpg", SMEARS[0])
    recorder(camera.uri, everySeconds=1, recordDuration="1s")
    groups = [*recorder.scan()[0].values()]
    assert len(groups) == len({*groups}) == 2


def test_blurred_frames_are_told_by_those_of_their_recording(recorder: Recorder) -> None:
    """A recording that is blurred as a whole is kept, and what is no picture stops nothing."""
    for number, picture in enumerate(SMEARS):
        blurred = cv2.GaussianBlur(picture, (0, 0), 3)
        keep(recorder, f"20260101T000000Z/20260101T00000{number}000Z.jpg", blurred if number == 4 else picture)
        keep(recorder, f"20260102T000000Z/20260102T00000{number}000Z.jpg", blurred)
    (recorder.folder / "20260101T000000Z/20260101T000009000Z.jpg").write_bytes(b"")
    frames, (finding,) = recorder.scan(dropBlurred=True)
    assert (finding.kind, finding.place) == ("BlurredFrame", "20260101T000000Z/20260101T000004000Z.jpg")
    assert len(frames) == 2 * len(SMEARS)


def test_lowered_max_frames_reads_the_first_and_other_files_are_reported(recorder: Recorder) -> None:
    paths = [keep(recorder, f"2026010{day}T000000Z/2026010{day}T000001000Z.jpg", SMEARS[0]) for day in (2, 1, 3)]
    keep(recorder, "mine/a.jpg", SMEARS[0])
    (recorder.folder / BEGUN).write_text("{}")
    frames, findings = recorder.scan(maxFrames=2)
    assert [*frames] == sorted(paths)[:2]
    assert [(each.kind, each.place) for each in findings] == [("MostFrames", paths[2]), ("UnusedFiles", "mine")]


def test_a_store_shows_recordings_and_frees_none(recorder: Recorder, tmp_path: Path) -> None:
    keep(recorder, "20260101T000000Z/20260101T000001000Z.jpg", SMEARS[0])
    store = StorePath.parse(str(tmp_path / "store"))
    (found,) = recorded(store)
    assert (found.place.uri, found.frames, found.bytes) == (str(recorder.folder), 1, len(*recorder.frames.values()))
    (tmp_path / "store/.work/r-1").mkdir(parents=True)  # of a run that records now, and has written nothing else
    assert garbage(store, datetime.now(UTC) + timedelta(days=365)) == []


# --- In a build -------------------------------------------------------------------------------------------------


def with_camera(voc: Path, uri: str, **video: object) -> dict[str, Any]:
    spec: dict[str, Any] = detection(voc)
    return {**spec, "sources": [*spec["sources"], {"name": "hall", "video": {"uri": uri, **AT_ONCE, **video}}]}


def test_builds_by_hand_record_until_all_is_there_and_then_adopt(voc: Path, tmp_path: Path, camera: Camera) -> None:
    def build(most: int) -> tuple[RunResult, list[str | None]]:
        spec = with_camera(Path("/claim"), camera.uri, maxFrames=most)
        spec["sources"][0]["uri"] = "pvc://claim/voc"
        metadata = {"name": "d", "annotations": {"local.fovea.dev/lab": "voc"}}
        manifest = {"apiVersion": "fovea.dev/v1alpha1", "kind": "Dataset", "metadata": metadata, "spec": spec}
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(manifest))
        listener = Listener()
        result = build_manifest(tmp_path / "dataset.yaml", str(tmp_path / "store"), reporter=listener)
        return result, listener.stages

    assert voc == tmp_path / "voc"
    first, stages = build(2)
    assert "Recording" in stages
    assert waiting(first) == (2, "Note")
    second, stages = build(2)
    assert "Recording" not in stages
    again, stages = build(2)
    assert "Checking" not in stages, "there is nothing new"
    assert again == second
    more, _ = build(3)
    assert (len(Recorder(tmp_path).frames), camera.played) == (3, 2)
    assert more.digest == first.digest, "what waits for a label is no part of a version"


def waiting(result: RunResult) -> tuple[int, str]:
    assert result.dataset is not None
    (found,) = (each for each in result.dataset.findings if each.kind == "WaitsForLabel")
    return found.count, str(found.severity)


def test_a_run_that_has_told_its_result_to_the_store_alone_records_no_more(
    voc: Path, tmp_path: Path, camera: Camera
) -> None:
    """As where its pod dies before the API server has heard; another run of the same spec records."""

    def run(nonce: str) -> tuple[RunResult, Mapping[str, bytes]]:
        recipe = Recipe.model_validate(with_camera(voc, camera.uri, everySeconds=1, recordDuration="1s"))
        owner = RunOwner(kind="Dataset", name="d")
        identity = run_identity(RunType.DATASET_BUILD, owner, recipe, RunInputs(), nonce)
        store = str(tmp_path / "store")
        spec = RunSpec(
            type=RunType.DATASET_BUILD,
            owner=owner,
            identity=identity,
            recipe=recipe.to_dict(),
            store=store,
            nonce=nonce,
        )
        environment = RunEnvironment(run_name(identity), attempt=1, work_dir=tmp_path / f"work{nonce}", ray=False)
        return execute(spec, environment, Listener()), Recorder(tmp_path).frames

    first, frames = run("")
    assert len(frames) == 1
    assert run("") == (first, frames)
    assert len(run("@tomorrow")[1]) == 2


def test_excluded_frames_are_left_out_and_deleted_ones_do_not_come_back(
    build: Build, voc: Path, tmp_path: Path, camera: Camera, recorder: Recorder
) -> None:
    recorder(camera.uri, maxFrames=3, **AT_ONCE)
    (tmp_path / "withdrawn.txt").write_text((gone := min(recorder.frames)) + "\n")
    spec = with_camera(voc, camera.uri, maxFrames=3) | {"exclude": {"uri": f"file://{tmp_path}/withdrawn.txt"}}
    found = {each.kind: each.count for each in build(spec).summary.findings}
    assert (found["Excluded"], found["WaitsForLabel"]) == (1, 2)
    (recorder.folder / gone).unlink()
    recorder(camera.uri, "r-2", maxFrames=3, **AT_ONCE)
    assert len(recorder.frames) == 3
    assert gone not in recorder.frames


def test_a_check_records_nothing_and_says_so(voc: Path, tmp_path: Path, camera: Camera) -> None:
    result = check_dataset(Recipe.model_validate(with_camera(voc, camera.uri)), work_dir=tmp_path / "work")
    assert result.summary is not None
    (note,) = (each for each in result.findings if each.kind == "EmptySource")
    assert str(note.examples[0]) == "hall: builds record its stream, and a check does not"
    assert camera.played == 0
