from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import pytest
from fovea_api.errors import InvalidInput
from fovea_store import NotFound, StorePath, StoreUnavailable


def test_local_round_trip(tmp_path: Path) -> None:
    root = StorePath.parse(str(tmp_path / "a"))
    (root / "x/y.txt").write_text("words")
    assert (root / "x/y.txt").read_text() == "words"
    assert [(entry.path, entry.size) for entry in root.files()] == [("x/y.txt", 5)]
    assert StorePath.parse(f"file://{tmp_path}/a/x/y.txt").size() == 5
    assert root.folders() == ["x"]
    assert pickle.loads(pickle.dumps(root)) == root
    root.delete()
    assert not root.exists()


def coming_and_going(folder: Path, ended: threading.Event) -> None:
    while not ended.is_set():
        (folder / "below").mkdir(parents=True)
        (folder / "below/file").write_text("1")
        (folder / "below/file").unlink(missing_ok=True)
        (folder / "below").rmdir()
        folder.rmdir()


@pytest.fixture
def restless(tmp_path: Path) -> Iterator[Path]:
    """A folder that another thread makes and deletes all the time, with a folder and a file in it."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(coming_and_going, tmp_path / "restless", ended)
        yield tmp_path
        ended.set()
        other.result()


def test_a_folder_that_comes_and_goes_while_one_looks_is_there_or_not(restless: Path) -> None:
    """arrow's own listing of what may be missing fails where the folder is made while it looks."""
    folder = StorePath.parse(str(restless / "restless"))
    looks = (tuple(folder.folders()) for _ in count())
    seen = set(islice(looks, 20_000))
    while seen == {()}:  # where there is one core, the other thread's turn may come late
        seen.add(next(looks))
    assert seen == {(), ("below",)}


def test_files_below_folders_that_come_and_go_are_there_or_not(restless: Path) -> None:
    (restless / "stays").write_text("1")
    for _ in range(10_000):
        assert {entry.path for entry in StorePath.parse(str(restless)).files()} - {"restless/below/file"} == {"stays"}


def test_what_another_deletes_at_the_same_time_is_deleted(restless: Path) -> None:
    file = StorePath.parse(str(restless / "restless/below/file"))
    for _ in range(50_000):
        file.delete()


def test_a_folder_that_several_delete_at_once_is_deleted(tmp_path: Path) -> None:
    """As gateways do that find the same day of captures too old."""
    folder = tmp_path / "day"
    with ThreadPoolExecutor(3) as pool:
        for _ in range(30):
            (folder / "answers").mkdir(parents=True)
            for number in range(60):
                (folder / f"{number}.json").write_text("{}")
                (folder / f"answers/{number}.json").write_text("{}")
            list(pool.map(lambda _: StorePath.parse(str(folder)).delete(), range(3)))
            assert not folder.exists()


def test_trees_are_copied_with_the_commit_last(tmp_path: Path) -> None:
    source = tmp_path / "from"
    for name in ("manifest.json", "z/last.bin"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    target = StorePath.parse(str(tmp_path / "to"))
    target.upload_tree(source, last="manifest.json")
    times = {entry.path: (tmp_path / "to" / entry.path).stat().st_mtime_ns for entry in target.files()}
    assert max(times, key=times.__getitem__) == "manifest.json"
    target.download_tree(tmp_path / "back")
    assert (tmp_path / "back/z/last.bin").read_text() == "z/last.bin"


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    file = StorePath.parse(str(tmp_path / "f"))
    file.write_text("earlier")
    with pytest.raises(InvalidInput):
        file.upload(tmp_path / "does-not-exist")
    assert file.read_text() == "earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_name_may_be_as_long_as_names_can_be_and_no_longer(tmp_path: Path) -> None:
    """In bytes: those of letters outside of ASCII are several."""
    file = StorePath.parse(str(tmp_path)) / f"{'図' * 83}.jpg"
    file.write_bytes(b"x")
    assert file.read_bytes() == b"x"
    longer = StorePath.parse(str(tmp_path)) / f"{'図' * 84}.jpg"
    with pytest.raises(InvalidInput, match="no file can be there"):
        longer.write_bytes(b"x")
    assert [entry.path for entry in StorePath.parse(str(tmp_path)).files()] == [file.name]


def test_a_link_that_leads_in_a_circle_is_named_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InvalidInput, match="circle: no file can be there: Too many levels"):
        StorePath.parse(str(tmp_path)).files()


def test_claims_are_folders_of_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="FOVEA_PVC_ROOT"):
        StorePath.parse("pvc://data/x")
    monkeypatch.setenv("FOVEA_PVC_ROOT", str(tmp_path))
    (StorePath.parse("pvc://data/x") / "y").write_text("1")
    assert (tmp_path / "data/x/y").read_text() == "1"
    with pytest.raises(InvalidInput, match=r"contains '\.\.'"):
        StorePath.parse("pvc://../secrets/key")


@pytest.mark.parametrize("link", ["secrets/key", "secrets", "data-2/a.txt"])
def test_no_link_leads_out_of_a_claim(link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label file that leads to a Secret would be quoted where it says that this is no label."""
    monkeypatch.setenv("FOVEA_PVC_ROOT", str(tmp_path))
    for file in ("data/x/a.txt", "data/y.txt", "data-2/a.txt", "secrets/key"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("1")
    (tmp_path / "data/x/b.txt").symlink_to("../y.txt")
    (tmp_path / "data/x/nowhere").symlink_to("/nowhere")
    claim = StorePath.parse("pvc://data")
    assert [entry.path for entry in (claim / "x").files()] == ["a.txt", "b.txt"]
    (tmp_path / "data/x/c").symlink_to(tmp_path / link)
    for place in (claim, claim / "x", *([claim / "x/c"] if link == "secrets" else [])):
        with pytest.raises(InvalidInput, match=r"/x/c: the link leads out of its claim"):
            place.files()
    assert len(StorePath.parse(str(tmp_path / "data")).files()) == 4, "by hand links are one's own"


@pytest.mark.parametrize("uri", ["http://host/x", "gcs://b/x", "s3:///x", "s3://bucket/a/../b", "ftp://x/y"])
def test_wrong_uris_are_refused(uri: str) -> None:
    with pytest.raises(InvalidInput):
        StorePath.parse(uri)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a\\..\\x"])
def test_paths_never_leave_their_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="leaves"):
        StorePath.parse(str(tmp_path)) / path


def test_errors_name_place_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"missing\.txt: there is nothing \(check the path"):
        StorePath.parse(str(tmp_path / "missing.txt")).read_bytes()
    (tmp_path / "long").write_bytes(b"x" * 11)
    with pytest.raises(InvalidInput, match="larger than 10"):
        StorePath.parse(str(tmp_path / "long")).read_bytes(10)


def test_an_unreachable_store_can_be_tried_again(tmp_path: Path) -> None:
    settings = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }
    for name, value in settings.items():
        (tmp_path / name).write_text(value)
    (tmp_path / "truststore.jks").write_bytes(b"\xfe\xed")  # what a Secret has beside
    with pytest.raises(StoreUnavailable, match="s3://bucket/x"):
        StorePath.parse("s3://bucket/x", str(tmp_path)).read_bytes()
