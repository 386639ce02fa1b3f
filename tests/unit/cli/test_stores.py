"""Copies to and from stores and claims go on where they broke off; a store shows what it holds and can do without."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from cli_support import Fovea, Trained
from fovea_api.engine import MANIFEST, PLAN

KUBECTL = """#!/bin/sh
# A stand-in for kubectl: the pod's file system is a folder here, and its shell this machine's.
echo "$*" >> {folder}/calls
case "$*" in
*" get "*missing*|"get persistentvolumeclaim/missing"*) echo 'Error from server (NotFound): none' >&2; exit 1 ;;
*"create --filename=-"*) cat > {folder}/pod.json; echo pod/fovea-transfer-x1 ;;
*exec*)
  [ "$1" = exec ] && [ "$2" = -i ] || [ "$4" = -i ] && [ -e {folder}/break ] && broken=1
  while [ "$1" != -- ]; do shift; done; shift
  script=$3; shift 3
  [ "$broken" ] && {{ rm {folder}/break; head -c 30000 | tar -C {folder}$1 -xf -; echo reset >&2; exit 1; }}
  exec sh -c "$script" "{folder}$1" ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the pod's file system."""
    folder = tmp_path / "pod"
    (folder / "claim").mkdir(parents=True)
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL.format(folder=folder))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.delenv("FOVEA_PVC_ROOT", raising=False)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_push_copies_what_is_missing(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(pictures, source)
    (source / ".cache").mkdir()
    (source / ".cache/x").touch()
    done = fovea("push", source, target, "-o", "json")
    assert json.loads(done.stdout) | {"bytes": 0} == {"target": str(target), "copied": 32, "bytes": 0, "present": 0}
    assert content(target) == content(pictures)
    changed = source / "test/red/test-0.png"
    shutil.copy(source / "test/red/test-2.png", changed)
    (target / "train/red/train-0.png").write_bytes(b"half")
    again = fovea("push", source, target)
    assert "2 files copied" in again.stdout
    assert "30 were there" in again.stdout
    assert f"{target} is a folder of this machine" in again.stdout, "a Dataset of a cluster reads it by no uri"
    assert (target / "test/red/test-0.png").read_bytes() == changed.read_bytes()
    (tmp_path / "empty").mkdir()
    assert "there are no files" in fovea("push", tmp_path / "empty", target).stderr


def test_a_file_that_was_changed_since_its_copy_is_copied_again(fovea: Fovea, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "a.txt").write_text("one")
    fovea("push", source, target)
    (source / "a.txt").write_text("two")
    written = (target / "a.txt").stat().st_mtime
    os.utime(source / "a.txt", (written + 5, written + 5))
    fovea("push", source, target)
    assert (target / "a.txt").read_text() == "two", "of the same size, but newer"


def test_push_to_a_claim_goes_on_where_it_broke_off(fovea: Fovea, pictures: Path, cluster: Path) -> None:
    (cluster / "claim/photos").mkdir()
    (cluster / "break").touch()
    first = fovea("push", pictures, "pvc://datasets/photos", "--namespace", "lab")
    assert first.exit_code == 75, first.output
    assert "do it again: what has arrived is not copied anew" in first.stderr
    second = fovea("push", pictures, "pvc://datasets/photos", "--namespace", "lab", "-o", "json")
    assert second.exit_code == 0, second.output
    assert content(cluster / "claim/photos") == content(pictures)
    third = json.loads(fovea("push", pictures, "pvc://datasets/photos", "-o", "json").stdout)
    assert (third["copied"], third["present"]) == (0, 32)
    calls = (cluster / "calls").read_text().splitlines()
    assert sum(" delete pod/fovea-transfer-x1 " in f" {call} " for call in calls) == 3, "no pod is left"
    assert all(call.startswith("--namespace lab ") for call in calls[:8])


def test_the_pod_of_a_claim_may_run_where_pods_are_restricted(fovea: Fovea, pictures: Path, cluster: Path) -> None:
    done = fovea("push", pictures, "pvc://datasets/photos", "--image", "registry.example/tools:1")
    assert "a Dataset reads them by  uri: pvc://datasets/photos\n" in done.stdout
    spec = json.loads((cluster / "pod.json").read_text())["spec"]
    assert spec["containers"][0]["image"] == "registry.example/tools:1"
    assert spec["volumes"] == [{"name": "claim", "persistentVolumeClaim": {"claimName": "datasets"}}]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert spec["activeDeadlineSeconds"] > 0


def test_a_claim_that_there_is_not(fovea: Fovea, pictures: Path, cluster: Path) -> None:
    done = fovea("push", pictures, "pvc://missing/photos")
    assert (done.exit_code, "kubectl get persistentvolumeclaims" in done.stderr) == (1, True)
    assert fovea("push", pictures, "http://lab/photos").exit_code == 1


def test_pull_verifies_a_bundle(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    done = fovea("pull", trained.bundle, "--to", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert "(verified)" in done.stdout
    assert content(tmp_path / "model") == content(trained.bundle)
    (tmp_path / "model/model.onnx").unlink()
    again = json.loads(fovea("pull", trained.bundle, "--to", tmp_path / "model", "-o", "json").stdout)
    assert (again["copied"], again["digest"]) == (1, trained.bundle.name)


def test_an_edited_bundle_is_refused_where_it_is_named_by_its_digest(
    fovea: Fovea, trained: Trained, tmp_path: Path
) -> None:
    edited = tmp_path / trained.bundle.name
    shutil.copytree(trained.bundle, edited)
    manifest = yaml.safe_load((edited / "bundle.yaml").read_text())
    (edited / "bundle.yaml").write_text(yaml.safe_dump(manifest | {"classes": ["blue", "green"]}))
    for words in (
        ("pull", edited, "--to", tmp_path / "model"),
        ("predict", edited, trained.pictures / "test"),
        ("report", edited, "--to", tmp_path / "report.html"),
    ):
        done = fovea(*words)
        assert (done.exit_code, "not the directory's name" in done.stderr) == (1, True), words


def test_pull_from_a_claim(fovea: Fovea, trained: Trained, cluster: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.bundle, cluster / "claim/store" / trained.bundle.name)
    done = fovea("pull", f"pvc://models/store/{trained.bundle.name}", "--to", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert content(tmp_path / "model") == content(trained.bundle)
    gone = fovea("pull", "pvc://models/other", "--to", tmp_path / "other")
    assert (gone.exit_code, "there is nothing" in gone.stderr) == (1, True)


def test_pull_by_the_name_of_a_training_job(
    fovea: Fovea, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in answers for kubectl."""
    _, job = yaml.safe_load_all(trained.manifest.read_text())
    result = {
        "run": "r-0123456789", "completedAt": "2030-01-01T00:00:00Z", "bundle": str(trained.bundle),
        "digest": trained.bundle.name, "eligible": True,
    }  # fmt: skip
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answer").write_text(json.dumps(job | {"status": {"result": result}}))
    Path("colours").mkdir()  # the images' folder, in which they are called what the TrainingJob is called
    done = fovea("pull", "colours", "--namespace", "lab")
    assert done.exit_code == 0, done.output
    assert content(tmp_path / trained.bundle.name) == content(trained.bundle)
    (tmp_path / "answer").write_text(json.dumps(job))
    done = fovea("pull", "trainingjob/colours")
    assert (done.exit_code, "the TrainingJob colours has no model yet" in done.stderr) == (1, True)


def test_list_shows_versions_and_bundles(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    rows = [line.split() for line in fovea("list", trained.store).stdout.splitlines()]
    assert [row[:2] for row in rows] == [["KIND", "NAME"], ["Version", "colours"], ["Bundle", "colours"]]
    version, bundle = json.loads(fovea("list", trained.store, "-o", "json").stdout)
    assert version["digest"] == trained.result.get("dataset", version)["digest"]
    assert (bundle["uri"], bundle["metrics"]) == (str(trained.bundle), trained.result["metrics"])
    assert "resnet18, 32 x 32, test/accuracy" in bundle["summary"]
    assert json.loads(fovea("list", trained.store, "--name", "x", "-o", "json").stdout) == []
    assert fovea("list", tmp_path / "none").stdout.splitlines() == ["KIND   NAME   DIGEST   WRITTEN   SIZE   WHAT"]


def test_a_finished_run_leaves_no_second_copy_and_gc_frees_the_rest(
    fovea: Fovea, trained: Trained, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(trained.store, store)
    assert not (store / ".work").exists(), "what a run needed while it worked goes with it"
    (store / "trainingjob/colours/bundles/sha256-half").mkdir()
    (store / "trainingjob/colours/bundles/sha256-half/model.onnx").write_bytes(b"x" * 1000)
    shown = fovea("store", "ls", store).stdout
    assert "FREE: checkpoints of a finished run" in shown
    assert "never finished" not in shown, "it may be at work"
    old = (store / "trainingjob/colours/bundles/sha256-half/model.onnx").stat().st_mtime - 2 * 86_400
    os.utime(store / "trainingjob/colours/bundles/sha256-half/model.onnx", (old, old))
    plan = json.loads(fovea("store", "gc", store, "--dry-run", "-o", "json").stdout)
    assert [each["why"] for each in plan["garbage"]] == ["checkpoints of a finished run", "was never finished"]
    assert "can be freed" in fovea("store", "gc", store, "--dry-run").stdout
    before = json.loads(fovea("store", "ls", store, "-o", "json").stdout)["bytes"]
    assert "freed" in fovea("store", "gc", store).stdout
    after = json.loads(fovea("store", "ls", store, "-o", "json").stdout)
    assert after["bytes"] == before - plan["freed"]
    assert (len(after["artifacts"]), after["garbage"]) == (2, [])
    again = fovea("train", "-f", trained.manifest, "--store", store, "-o", "json")
    assert json.loads(again.stdout)["digest"] == trained.bundle.name, "the result is adopted as before"


def test_gc_frees_the_engines_of_models_that_are_gone(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(trained.store, store)
    engines = store / "trainingjob/colours/engines"
    model = hashlib.sha256((trained.bundle / "model.onnx").read_bytes()).hexdigest()
    for engine in (f"sha256-{model}/whole", f"sha256-{model}/half", f"sha256-{'0' * 64}/whole"):
        (engines / engine).mkdir(parents=True)
        (engines / engine / PLAN).write_bytes(b"x" * 1000)
        os.utime(engines / engine / PLAN, (0, 0))
        if engine.endswith("whole"):
            (engines / engine / MANIFEST).write_text("schemaVersion: 1")
    assert fovea("store", "gc", store).exit_code == 0
    assert [path.relative_to(engines).as_posix() for path in engines.glob("*/*")] == [f"sha256-{model}/whole"]
