"""A source and a store on a real S3 server give the very version that local folders give."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dataset_support import Build, detection, draw
from fovea_api.common import Task
from fovea_api.dataset import Export, Source
from fovea_api.errors import InvalidInput
from fovea_api.run import BundleInput, CleanupRecipe, RunOwner
from fovea_store import AccessDenied, NotFound, StoreOwner, StorePath, claim_store
from fovea_store.filesystems import filesystem
from fovea_store.ownership import StoreOwnedByAnother
from fovea_trainer.cleanup import clean_up
from fovea_trainer.data.formats import Options, Tree
from fovea_trainer.data.index import Waiting
from fovea_trainer.data.prelabel import Exported, export_batch, exported
from fovea_trainer.data.read import OpenSource
from fovea_trainer.data.records import FileImage, SourceImage
from fovea_trainer.data.version import open_version
from fovea_trainer.data.videos import open_videos
from fovea_trainer.fingerprint import fingerprint
from test_videos import contents, film, smears

from tests.s3 import running


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a real S3 server, whose folders are its buckets; the environment points to it."""
    root = tmp_path / "s3"
    (root / "fovea").mkdir(parents=True)
    secret = tmp_path / "secrets/lab"
    secret.mkdir(parents=True)
    monkeypatch.setenv("FOVEA_SECRETS_ROOT", str(secret.parent))
    with running(root) as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
            (secret / name).write_text(value)
        filesystem.cache_clear()  # a process has one endpoint; here each test has its own
        yield root


def test_videos_are_read_from_a_bucket_and_frames_exported_to_one(server: Path, tmp_path: Path) -> None:
    """The frames of a local file, file or folder, and each exported once."""
    film(server / "lab/hall/a.avi", smears(20))
    expected = contents(server / "lab/hall/a.avi", tmp_path / "local")
    for number, uri in enumerate(("s3://lab/hall/a.avi", "s3://lab/hall")):
        source = Source.model_validate({"name": "c", "video": {"uri": uri}, "secretRef": {"name": "lab"}})
        found = open_videos(source, tmp_path / str(number))
        frames = [each.name for each in found.scan() if isinstance(each, SourceImage)]
        assert {name: (found.frames / name).read_bytes() for name in frames} == expected
        assert {path.name for path in (tmp_path / str(number)).iterdir()} == {"frames"}, "the copy is deleted"
    (server / "todo").mkdir()
    export = Export.model_validate({"uri": "s3://todo/cells", "format": "CVAT"})
    waiting = [Waiting(name, 0, name, FileImage(name), 640, 480, "v", False) for name in expected]
    opened = OpenSource("c", Tree(StorePath.parse(str(found.frames))), found, Options(Task.DETECTION))
    assert exported(StorePath.parse(export.uri), "d") == {}
    model = BundleInput(digest=f"sha256-{'1' * 64}", artifact="s3://models/1")
    batch = export_batch(export, "d", Task.DETECTION, model, [], [(each, {}) for each in waiting], [opened])
    assert exported(StorePath.parse(export.uri), "d") == dict.fromkeys(expected, Exported(batch.uri, "v"))
    assert exported(StorePath.parse(export.uri), "another") == {}
    for name, data in expected.items():
        assert (batch / f"images/c/{name}").read_bytes() == data


def test_s3_source_and_store(server: Path, voc: Path, build: Build, tmp_path: Path) -> None:
    shutil.copytree(voc, server / "lab/voc")
    spec = detection(voc)
    source = {"name": "lab", "uri": "s3://lab/voc", "format": "PascalVOC", "secretRef": {"name": "lab"}}
    result = build({**spec, "sources": [source]}, store="s3://fovea/ns")
    assert result.digest == build(spec).digest
    assert result.artifact == f"s3://fovea/ns/dataset/d/{result.digest}"
    assert len(open_version(result.artifact, tmp_path / "cache").split("train")) == result.summary.splits["train"]
    assert build({**spec, "sources": [source]}, store="s3://fovea/ns", parent=result).adopted
    wrong = tmp_path / "wrong"
    shutil.copytree(tmp_path / "secrets/lab", wrong)
    (wrong / "AWS_SECRET_ACCESS_KEY").write_text("another")
    with pytest.raises(AccessDenied, match="check the keys of the Secret"):
        StorePath.parse("s3://fovea/ns/x", str(wrong)).read_bytes()


def test_objects_written_again_with_other_content_of_one_size_have_another_fingerprint(server: Path) -> None:
    folder = StorePath.parse("s3://fovea/lab")
    (folder / "a/1.txt").write_text("one")
    (folder / "2.txt").write_text("two")
    first, alone = fingerprint(folder), fingerprint(folder / "2.txt")
    assert fingerprint(folder) == first
    (folder / "2.txt").write_text("six")  # within the second that S3 tells
    assert fingerprint(folder) != first
    assert fingerprint(folder / "2.txt") != alone
    (folder / "2.txt").write_text("two")
    assert fingerprint(folder) == first
    with pytest.raises(NotFound):
        fingerprint(folder / "nothing")


def test_a_store_in_s3_belongs_to_the_first_that_works_there(server: Path) -> None:
    root = StorePath.parse("s3://fovea/ns")
    claim_store(root, StoreOwner("cluster", "a-uid", "team-a"))
    claim_store(root, StoreOwner("cluster", "a-uid", "team-a"))
    with pytest.raises(StoreOwnedByAnother):
        claim_store(root, StoreOwner("cluster", "b-uid", "team-b"))
    claim_store(root, StoreOwner("cluster", "b-uid", "team-b"), adopt="cluster/a-uid")
    with pytest.raises(StoreOwnedByAnother):
        claim_store(root, StoreOwner("cluster", "a-uid", "team-a"))


def test_s3_cleanup(server: Path) -> None:
    folder = StorePath.parse("s3://fovea/ns/dataset/cells")
    digests = [f"sha256-{number:064}" for number in (3, 1, 2)]
    for number, digest in enumerate(digests):
        (folder / digest / "shards/train-00000.parquet").write_text("words")
        (folder / digest / "manifest.json").write_text("words")
        if number < 2:
            time.sleep(1.1)  # S3 tells times in whole seconds
    (folder / "runs/r-0123456789/result.json").write_text("words")
    other = StorePath.parse("s3://fovea/ns/dataset/cells-2/runs/r-0123456789/result.json")
    other.write_text("words")
    owner = RunOwner(kind="Dataset", name="cells")

    def clean(**recipe: object) -> tuple[str, ...]:
        return clean_up(owner, "s3://fovea/ns", CleanupRecipe.model_validate(recipe), lambda _: None)

    for _ in range(2):
        assert clean(keepNewest=1, keep=[digests[0]]) == (digests[2], digests[0])
    assert folder.folders() == sorted([digests[0], digests[2], "runs"])
    for _ in range(2):
        assert clean() == ()
    assert not folder.exists()
    assert other.exists()


def test_an_archive_in_s3_and_a_wrong_digest(server: Path, voc: Path, build: Build, tmp_path: Path) -> None:
    (server / "lab").mkdir()
    shutil.make_archive(str(server / "lab/voc"), "zip", voc)
    digest = hashlib.sha256((server / "lab/voc.zip").read_bytes()).hexdigest()
    source = {"name": "lab", "uri": "s3://lab/voc.zip", "format": "PascalVOC", "sha256": digest}
    spec = detection(voc)
    assert build({**spec, "sources": [source]}).digest == build(spec).digest
    with pytest.raises(InvalidInput, match=r"s3://lab/voc\.zip: the file's sha256 is .*correct sha256"):
        build({**spec, "sources": [{**source, "sha256": "0" * 64}]})


@pytest.mark.parametrize("folder", ["My Drive (1)", "100% #1?", "Übung", "a&b;c=d+e", "日本", "%20"])
def test_any_folder_of_a_bucket_can_be_named(server: Path, build: Build, folder: str) -> None:
    for number, pet in enumerate(("cat", "dog") * 5):
        draw(server / "lab" / folder / pet / f"{number}-{folder}.jpg", seed=number)
    spec = {
        "task": "Classification",
        "sources": [{"name": "lab", "uri": f"s3://lab/{folder}", "format": "ImageFolder"}],
    }
    assert [(each.name, each.images) for each in build(spec).summary.classes] == [("cat", 5), ("dog", 5)]
