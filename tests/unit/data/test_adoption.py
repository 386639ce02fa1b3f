"""What is adopted from a store, and from whose: never a result of other data, never another's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from dataset_support import Listener, detection
from fovea_api.bundle import MANIFEST
from fovea_api.dataset import Recipe
from fovea_api.errors import InvalidInput
from fovea_api.run import (
    BundleInput,
    CleanupRecipe,
    DatasetInput,
    RunInputs,
    RunOwner,
    RunResult,
    RunSpec,
    RunType,
    VersionInput,
    run_identity,
    run_name,
)
from fovea_api.trainingjob import Recipe as TrainingRecipe
from fovea_store import StoreOwner, StorePath, claim_store
from fovea_store.ownership import StoreOwnedByAnother, read_owner
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.fingerprint import fingerprint, fingerprints
from fovea_trainer.local import build_manifest
from fovea_trainer.results import INPUTS, find_result, folder_of, forget_other_inputs, write_result
from fovea_trainer.run import check_store, execute

TEAM_A, TEAM_B = StoreOwner("cluster", "a-uid", "team-a"), StoreOwner("cluster", "b-uid", "team-b")
REBUILT = StoreOwner("cluster-2", "a-uid-2", "team-a")


class Cluster:
    """What the pods of a namespace do, run after run, in one store."""

    def __init__(self, folder: Path, voc: Path) -> None:
        self.folder, self.voc, self.owner, self.adopt = folder, voc, TEAM_A, ""

    def spec(self, parent: VersionInput | None = None, **recipe: Any) -> RunSpec:
        read, owner = Recipe.model_validate(detection(self.voc, **recipe)), RunOwner(kind="Dataset", name="cells")
        inputs = RunInputs(parent=parent)
        return RunSpec(
            type=RunType.DATASET_BUILD,
            owner=owner,
            identity=run_identity(RunType.DATASET_BUILD, owner, read, inputs),
            recipe=read.to_dict(),
            inputs=inputs,
            store=str(self.folder / "store"),
        )

    def run(self, spec: RunSpec | None = None) -> tuple[RunResult, bool]:
        """The result, and whether it was built."""
        spec = spec or self.spec()
        name, listener = run_name(spec.identity), Listener()
        work = self.folder / "work" / name
        environment = RunEnvironment(name, 1, work, ray=False, owner=self.owner, adopt=self.adopt)
        check_store(spec, environment)
        shutil.rmtree(work, ignore_errors=True)
        result = execute(spec, environment, listener)
        return result, "Checking" in listener.stages

    def relabel(self) -> None:
        """Other content of the same size, written at the same time as far as anybody can see."""
        file = self.voc / "Annotations/BloodImage_00001.xml"
        before = file.stat()
        text = file.read_text()
        changed = text.replace("<name>WBC</name>", "<name>RBC</name>")
        assert len(changed) == len(text)
        assert changed != text
        file.write_text(changed)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def cluster(tmp_path: Path, voc: Path) -> Cluster:
    return Cluster(tmp_path, voc)


def test_a_dataset_applied_again_over_changed_files_is_built_from_them(cluster: Cluster) -> None:
    first, built = cluster.run()
    assert built
    again, built = cluster.run()
    assert (again.digest, built) == (first.digest, False), "nothing has changed"
    cluster.relabel()
    other, built = cluster.run()
    assert built
    assert other.digest != first.digest
    assert cluster.run()[1] is False


def test_files_that_only_look_changed_are_not_built_again(cluster: Cluster) -> None:
    cluster.run()
    for file in (cluster.voc / "Annotations").iterdir():
        os.utime(file)
    assert cluster.run()[1] is False


def test_a_namespace_made_anew_with_an_empty_claim_gets_nothing_of_the_old_one(cluster: Cluster) -> None:
    cluster.run()
    cluster.owner = StoreOwner("cluster", "a-uid-2", "team-a")
    with pytest.raises(StoreOwnedByAnother, match=r"fovea\.dev/adopt=cluster/a-uid\b"):
        cluster.run()
    cluster.adopt = TEAM_A.id
    for file in (*(cluster.voc / "Annotations").iterdir(), *(cluster.voc / "JPEGImages").iterdir()):
        file.unlink()
    with pytest.raises(InvalidInput, match=r"empty|no image"):
        cluster.run()


def test_a_result_of_before_whose_inputs_are_not_known_is_built_again_to_the_same_version(cluster: Cluster) -> None:
    first, _ = cluster.run()
    (file,) = (cluster.folder / "store/dataset/cells/runs").glob("*/result.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: content[name] for name in ("identity", "result")}))
    again, built = cluster.run()
    assert built
    assert again.digest == first.digest, "so nothing is trained again"


def test_a_rebuilt_cluster_adopts_by_a_word_and_takes_the_newest_version_with_its_splits(cluster: Cluster) -> None:
    first, _ = cluster.run()
    assert first.digest is not None
    assert first.artifact is not None
    cluster.relabel()
    second, _ = cluster.run(cluster.spec(VersionInput(version=first.digest, artifact=first.artifact)))
    cluster.owner = REBUILT
    with pytest.raises(StoreOwnedByAnother):
        cluster.run()
    cluster.adopt = TEAM_A.id
    found, built = cluster.run()  # it knows of no version that could be a parent
    assert (found.digest, built) == (second.digest, False)
    cluster.adopt = ""
    assert cluster.run()[1] is False, "the store is its own now"
    cluster.owner = TEAM_A
    with pytest.raises(StoreOwnedByAnother, match="cluster-2/a-uid-2"):
        cluster.run()


def test_what_was_built_with_a_model_is_not_taken_for_what_would_be_without(cluster: Cluster) -> None:
    """In a rebuilt cluster that knows of no parent and serves nothing yet: labels that a model predicted are others."""
    plain = cluster.spec()
    inputs = RunInputs(prelabel=BundleInput(digest=f"sha256-{'5' * 64}", artifact="s3://models/5"))
    recipe = Recipe.model_validate(plain.recipe)
    identity = run_identity(RunType.DATASET_BUILD, plain.owner, recipe, inputs)
    labelled = plain.model_copy(update={"inputs": inputs, "identity": identity})
    result, _ = cluster.run(plain)
    shutil.rmtree(cluster.folder / "store/dataset/cells/runs", ignore_errors=True)
    write_result(labelled, run_name(labelled.identity), fingerprints(labelled), result)
    assert find_result(labelled, run_name(labelled.identity), fingerprints(labelled)) is not None
    assert find_result(plain, "r-0000000000", fingerprints(plain)) is None


def test_a_store_annotation_that_names_another_teams_store_is_refused_before_any_work(cluster: Cluster) -> None:
    cluster.run()
    before = sorted((cluster.folder / "store").rglob("*"))
    cluster.owner = TEAM_B
    for word in ("", "true", TEAM_B.id, REBUILT.id):
        cluster.adopt = word
        with pytest.raises(StoreOwnedByAnother, match="the store belongs to namespace team-a") as refused:
            cluster.run()
        assert refused.value.remedy is not None
        assert "kubectl annotate namespace team-b fovea.dev/adopt=cluster/a-uid" in refused.value.remedy
    assert sorted((cluster.folder / "store").rglob("*")) == before


@pytest.mark.parametrize("place", ["store", "store/team-b", "store/shared/team-b", "."])
def test_a_store_in_or_around_anothers_is_refused(tmp_path: Path, place: str) -> None:
    """Who deletes in one deletes in both."""
    theirs, ours = (StorePath.parse(str(tmp_path / "around" / name)) for name in ("store", place))
    for first, second in ((theirs, ours), (ours, theirs)):
        shutil.rmtree(tmp_path / "around", ignore_errors=True)
        claim_store(first, TEAM_A)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(StoreOwnedByAnother, match="belongs to namespace team-a") as refused:
            claim_store(second, TEAM_B)
        assert sorted(tmp_path.rglob("*")) == before
        assert (f"the store {first}" in str(refused.value)) is (first != second), "it is named unless it is this one"
        claim_store(second, StoreOwner("cluster", "a-uid", "renamed"))
        (second / "owner.json").delete()
        claim_store(first, TEAM_A)
        claim_store(second, TEAM_B, TEAM_A.id)
        owner = read_owner(second)
        assert owner is not None
        assert owner.id == TEAM_B.id


def test_stores_beside_each_other_and_files_of_others_named_so_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "owner.json").write_text("[]")
    for name, owner in (("a", TEAM_A), ("ab", TEAM_B), ("a", TEAM_A)):
        claim_store(StorePath.parse(str(tmp_path / name)), owner)


def test_a_cleanup_deletes_nothing_of_another_and_marks_nothing(cluster: Cluster, tmp_path: Path) -> None:
    spec = cluster.spec().model_copy(update={"type": RunType.CLEANUP, "recipe": CleanupRecipe().to_dict()})
    environment = RunEnvironment("r-0123456789", 1, tmp_path / "work", ray=False, owner=TEAM_B)
    check_store(spec, environment)
    assert read_owner(StorePath.parse(spec.store)) is None
    cluster.run()
    with pytest.raises(StoreOwnedByAnother):
        check_store(spec, environment)


def test_runs_by_hand_keep_to_their_own_store(cluster: Cluster, tmp_path: Path) -> None:
    manifest = {
        "kind": "Dataset",
        "apiVersion": "fovea.dev/v1alpha1",
        "metadata": {"name": "cells"},
        "spec": detection(cluster.voc),
    }
    file = tmp_path / "dataset.yaml"
    file.write_text(json.dumps(manifest))
    by_hand = str(tmp_path / "by-hand")
    build_manifest(file, by_hand, reporter=Listener())
    build_manifest(file, by_hand, reporter=Listener())
    cluster.run()
    with pytest.raises(StoreOwnedByAnother, match="--adopt cluster/a-uid"):
        build_manifest(file, str(cluster.folder / "store"), reporter=Listener())
    build_manifest(file, str(cluster.folder / "store"), reporter=Listener(), adopt=TEAM_A.id)
    with pytest.raises(StoreOwnedByAnother, match="belongs to runs by hand"):
        cluster.run()


def test_of_two_that_claim_a_store_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, write = StorePath.parse(str(tmp_path)), StorePath.write_text

    def slow(self: StorePath, text: str) -> None:
        write(self, text)
        write(self, json.dumps({"cluster": "cluster", "namespace": "b-uid", "name": "team-b"}))

    monkeypatch.setattr(StorePath, "write_text", slow)
    with pytest.raises(StoreOwnedByAnother, match="team-b"):
        claim_store(root, TEAM_A)


# --- Trainings -----------------------------------------------------------------------------------------------


def training(store: Path, weights: Path) -> RunSpec:
    pretrained = {"uri": f"file://{weights}"}
    recipe = TrainingRecipe.model_validate({"model": {"architecture": "resnet18", "pretrained": pretrained}})
    digest = f"sha256-{'1' * 64}"
    inputs = RunInputs(dataset=DatasetInput(name="cells", version=digest, artifact=f"{store}/dataset/cells/{digest}"))
    owner = RunOwner(kind="TrainingJob", name="cells")
    identity = run_identity(RunType.TRAINING, owner, recipe, inputs)
    return RunSpec(
        type=RunType.TRAINING, owner=owner, identity=identity, recipe=recipe.to_dict(), inputs=inputs, store=str(store)
    )


def test_a_training_from_weights_at_a_place_is_adopted_while_they_are_the_same(tmp_path: Path) -> None:
    weights, bundle = tmp_path / "weights.safetensors", tmp_path / "made"
    weights.write_bytes(b"first")
    bundle.mkdir()
    (bundle / MANIFEST).write_text("{}")
    spec = training(tmp_path / "store", weights)
    name = run_name(spec.identity)
    made = RunResult.model_validate({"completedAt": "2026-11-24T20:00:00Z", "artifact": str(bundle)})
    forget_other_inputs(spec, name, fingerprints(spec))
    (folder_of(spec, name) / "checkpoints/last").write_text("state")
    write_result(spec, name, fingerprints(spec), made)
    assert find_result(spec, name, fingerprints(spec)) == made

    forget_other_inputs(spec, name, fingerprints(spec))
    assert (folder_of(spec, name) / "checkpoints/last").is_file()
    weights.write_bytes(b"other")
    assert find_result(spec, name, fingerprints(spec)) is None
    forget_other_inputs(spec, name, fingerprints(spec))
    assert not (folder_of(spec, name) / "checkpoints/last").exists(), "its checkpoints began with other weights"
    assert (folder_of(spec, name) / INPUTS).is_file()
    weights.unlink()
    assert find_result(spec, name, fingerprints(spec)) is None


def test_a_training_whose_inputs_are_all_digests_is_adopted_from_a_version_of_before(tmp_path: Path) -> None:
    spec = training(tmp_path / "store", tmp_path / "none")
    recipe = TrainingRecipe.model_validate({"model": {"architecture": "resnet18"}})
    spec = spec.model_copy(update={"recipe": recipe.to_dict()})
    (tmp_path / MANIFEST).write_text("{}")
    made = RunResult.model_validate({"completedAt": "2026-11-24T20:00:00Z", "artifact": str(tmp_path)})
    training_then = {"bestEpoch": 1, "epochs": 1, "seconds": 1, "gpuHours": 0}  # a field that is no more
    before = {"identity": spec.identity, "result": made.to_dict() | {"training": training_then}}
    (folder_of(spec, "r-0") / "result.json").write_text(json.dumps(before))
    found = find_result(spec, "r-0", fingerprints(spec))
    assert found is not None
    assert found.model_copy(update={"training": None}) == made


def test_base_weights_of_a_bundle_are_those_of_its_manifest(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / MANIFEST).write_text("a: 1")
    (bundle / "report.html").write_text("one")
    spec = training(tmp_path / "store", bundle)
    before = fingerprints(spec)
    (bundle / "report.html").write_text("two")
    assert fingerprints(spec) == before
    (bundle / MANIFEST).write_text("a: 2")
    assert fingerprints(spec) != before


# --- Fingerprints --------------------------------------------------------------------------------------------


def test_a_fingerprint_tells_names_and_contents_apart(tmp_path: Path) -> None:
    root = tmp_path / "a"
    root.mkdir()
    (root / "x").write_text("1")
    path = StorePath.parse(str(root))
    found = [fingerprint(path)]
    for change in (
        lambda: (root / "x").write_text("2"),
        lambda: (root / "x").rename(root / "y"),
        lambda: (root / "z").write_text(""),
        lambda: (root / "z").unlink(),
    ):
        change()
        found.append(fingerprint(path))
    assert len(set(found)) == 4
    assert found[4] == found[2]
    moved = tmp_path / "b"
    shutil.copytree(root, moved)
    assert fingerprint(StorePath.parse(str(moved))) == found[4], "where it lies does not matter"
