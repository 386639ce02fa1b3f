"""What a cleanup deletes from a store and what it leaves."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fovea_api import bundle, dataset, trainingjob, version
from fovea_api.common import Model
from fovea_api.errors import InvalidInput
from fovea_api.run import CleanupRecipe, Progress, RunInputs, RunOwner, RunResult, RunSpec, RunType, run_identity
from fovea_store import StorePath
from fovea_trainer.cleanup import clean_up
from fovea_trainer.data.version import stored_versions
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.results import find_result, write_result
from fovea_trainer.run import execute

CELLS = RunOwner(kind="Dataset", name="cells")
JOB = RunOwner(kind="TrainingJob", name="cells")


def digest(number: int) -> str:
    return f"sha256-{number:064}"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Versions 1 to 4 of a Dataset, the first written first, one that was never finished, a bundle and runs."""
    root = tmp_path / "store"
    for number in range(1, 5):
        folder = root / "dataset/cells" / digest(number)
        write(folder / version.MANIFEST, folder / "shards/train-00000.parquet")
        os.utime(folder / version.MANIFEST, (number, number))
    write(root / "dataset/cells" / digest(9) / "shards/train-00000.parquet")
    write(root / "dataset/cells/runs/r-0123456789/result.json", root / "dataset/cells/runs/r-0123456789/log.txt")
    write(root / "dataset/cells/recordings/hall/20260101T000000Z/20260101T000000000Z.jpg")
    write(root / "dataset/cells-2" / digest(1) / version.MANIFEST)
    write(root / "trainingjob/cells/bundles" / digest(7) / bundle.MANIFEST)
    write(root / "trainingjob/cells/runs/r-0123456789/checkpoints/1/state.safetensors")
    return root


def write(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("words")


def clean(owner: RunOwner, store: Path | str, **recipe: object) -> tuple[str, ...]:
    return clean_up(owner, str(store), CleanupRecipe.model_validate(recipe), lambda _: None)


def folders(store: Path) -> list[str]:
    return StorePath.parse(str(store / "dataset/cells")).folders()


def test_everything_of_the_owner_goes_and_nothing_else(store: Path) -> None:
    assert clean(CELLS, store) == ()
    assert not (store / "dataset/cells").exists()
    assert (store / "dataset/cells-2" / digest(1) / version.MANIFEST).exists()
    assert (store / "trainingjob/cells/bundles" / digest(7) / bundle.MANIFEST).exists()
    assert clean(JOB, store) == ()
    assert not (store / "trainingjob/cells").exists()


@pytest.mark.parametrize(
    ("newest", "keep", "left"),
    [
        (1, (), [4]),
        (2, (), [4, 3]),
        (2, (1,), [4, 3, 1]),
        (1, (4, 2, 8), [4, 2]),
        (0, (2,), [2]),
        (9, (), [4, 3, 2, 1]),
    ],
)
def test_the_newest_and_the_named_versions_stay(
    store: Path, newest: int, keep: tuple[int, ...], left: list[int]
) -> None:
    made = clean(CELLS, store, keepNewest=newest, keep=[digest(number) for number in keep])
    assert made == tuple(digest(number) for number in left)
    assert folders(store) == sorted([*made, "recordings", "runs"])
    assert list((store / "dataset/cells/recordings").rglob("*.jpg")), "they are of no version"
    assert (store / "dataset/cells/runs/r-0123456789/result.json").exists()


def test_done_again_it_changes_nothing(store: Path) -> None:
    for _ in range(2):
        assert clean(CELLS, store, keepNewest=2) == (digest(4), digest(3))
    for _ in range(2):
        assert clean(CELLS, store) == ()


def test_cut_off_at_any_deletion_nothing_half_reads_as_whole(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {path: sorted(path.rglob("*")) for path in (store / "dataset/cells").iterdir()}
    original = StorePath.delete
    for recipe in ({"keepNewest": 1}, {}):
        for cut in range(20):
            deleted = iter(range(cut))

            def delete(self: StorePath, deleted: object = deleted) -> None:
                if next(deleted, None) is None:  # type: ignore[call-overload]
                    raise InterruptedError
                original(self)

            monkeypatch.setattr(StorePath, "delete", delete)
            with contextlib.suppress(InterruptedError):
                clean(CELLS, store, **recipe)
            for name in stored_versions(StorePath.parse(str(store / "dataset/cells"))):
                folder = store / "dataset/cells" / name
                assert sorted(folder.rglob("*")) == whole[folder]
    assert not (store / "dataset/cells").exists()


def test_a_folder_that_is_a_link_is_refused(store: Path) -> None:
    (store / "dataset/mine").symlink_to(store / "dataset/cells")
    with pytest.raises(InvalidInput, match="is a link"):
        clean(RunOwner(kind="Dataset", name="mine"), store)
    (store / "dataset/cells/link").symlink_to(store / "dataset/cells-2")
    clean(CELLS, store)
    assert (store / "dataset/cells-2" / digest(1) / version.MANIFEST).exists()


def test_a_store_may_lie_behind_a_link(store: Path) -> None:
    (store.parent / "mounted").symlink_to(store)
    clean(CELLS, store.parent / "mounted")
    assert not (store / "dataset/cells").exists()


class _Silent:
    def report(self, progress: Progress) -> None:
        pass

    def finish(self, result: RunResult) -> None:
        pass


def order(type: RunType, owner: RunOwner, recipe: Model, store: Path) -> RunSpec:
    identity = run_identity(type, owner, recipe, RunInputs())
    return RunSpec(type=type, owner=owner, identity=identity, recipe=recipe.to_dict(), store=str(store))


def test_a_cleanup_leaves_no_trace_of_itself(store: Path, tmp_path: Path) -> None:
    spec = order(RunType.CLEANUP, CELLS, CleanupRecipe(), store)
    made = execute(spec, RunEnvironment("r-aaaaaaaaaa", 1, tmp_path / "work", ray=False), _Silent())
    assert (made.error, made.versions) == (None, ())
    assert not (store / "dataset/cells").exists()


@pytest.mark.parametrize("type", [RunType.DATASET_BUILD, RunType.TRAINING])
def test_a_stored_result_counts_as_long_as_its_artifact_is_there(store: Path, type: RunType) -> None:
    source = {"name": "a", "uri": "s3://a", "format": "ImageFolder"}
    owner, recipe, artifact, commit = {
        RunType.DATASET_BUILD: (
            CELLS,
            dataset.Recipe.model_validate({"task": "Classification", "sources": [source]}),
            store / "dataset/cells" / digest(1),
            version.MANIFEST,
        ),
        RunType.TRAINING: (
            JOB,
            trainingjob.Recipe.model_validate({"model": {"architecture": "resnet18"}}),
            store / "trainingjob/cells/bundles" / digest(7),
            bundle.MANIFEST,
        ),
    }[type]
    spec = order(type, owner, recipe, store)
    result = RunResult(completed_at=datetime.now(UTC), artifact=str(artifact))
    read = {"sources/a": digest(1)} if type is RunType.DATASET_BUILD else {}
    write_result(spec, "r-0123456789", read, result)
    assert find_result(spec, "r-0123456789", read) == result
    (artifact / commit).unlink()
    assert find_result(spec, "r-0123456789", read) is None
