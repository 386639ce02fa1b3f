"""`fovea tune` on real trainings of a tiny network: to the end, after kill -9, and where every trial fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fovea_api.errors import InvalidInput
from fovea_store import StorePath
from fovea_trainer.local import tune_manifest
from fovea_trainer.tuning.journal import Entry, Journal, Phase
from fovea_trainer.tuning.manifest import newest_sweep, read_sweep
from fovea_trainer.tuning.patch import find_sweep, recipe_patch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from synthetic import manifest

RATE = {"path": "training.optimizer.learningRate", "logUniform": {"min": 1e-3, "max": 1e-1}}
OBJECTIVES = [
    {"metric": "validation/accuracy", "goal": "Maximize"},
    {"metric": "complexity/gigaMacs", "goal": "Minimize", "limit": 1},
]


def sweep(folder: Path, epochs: int = 4, **spec: Any) -> Path:
    """A manifest of the Dataset of coloured squares and a TuningSweep over it."""
    path = manifest(folder, {"train": 8, "validation": 8})
    dataset, job = yaml.safe_load_all(path.read_text())
    template = {**job["spec"], "training": {**job["spec"]["training"], "epochs": epochs, "batchSize": 4}}
    content = {
        "apiVersion": dataset["apiVersion"],
        "kind": "TuningSweep",
        "metadata": {"name": "squares"},
        "spec": {
            "template": {"spec": template},
            "parameters": [RATE],
            "objectives": OBJECTIVES,
            "search": {"algorithm": "Random"},
            "stopping": {"graceEpochs": 1, "reductionFactor": 4},
            "trials": {"max": 4},
        }
        | spec,
    }
    path.write_text(yaml.safe_dump_all([dataset, content]))
    return path


def tune(path: Path, store: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fovea_cli.main", "tune", "-f", str(path), "--store", str(store), *options]
    code = "import sys; from fovea_cli.main import main; sys.argv[1:] = " + repr(command[3:]) + "; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=store.parent
    )


def journal(store: Path) -> list[Entry]:
    studies = list((store / "tuningsweep" / "squares" / "studies").glob("*"))
    return Journal(StorePath.parse(str(studies[0]))).read() if studies else []


@pytest.mark.slow
@pytest.mark.timeout(1500)  # the same where CI builds images beside the tests
def test_a_sweep_survives_kill_9_and_leaves_a_report_and_a_patch(tmp_path: Path) -> None:
    path, store = sweep(tmp_path), tmp_path / "store"
    process = tune(path, store)
    deadline = time.monotonic() + 300
    while len(journal(store)) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = journal(store)
    done, doomed = before[:2], before[2]
    assert all(each.epochs == 1 for each in done)
    assert doomed.phase is Phase.RUNNING

    process = tune(path, store, "--output", "json")
    stdout, stderr = process.communicate(timeout=1200)
    assert process.returncode == 0, stderr
    result = json.loads(stdout)
    counts = result["sweep"]["trials"]
    assert (counts["succeeded"], counts["stoppedEarly"], counts["failed"], counts["total"]) == (1, 3, 0, 4)
    after = journal(store)
    assert [each.values for each in after[:3]] == [each.values for each in before]
    begun = [line for line in stderr.splitlines() if " trains up to epoch 1" in line]
    assert len(begun) == 2, "the third, which died, and the fourth"
    assert result["sweep"]["ended"] == "AllTrials"

    found = read_sweep(newest_sweep("squares", str(store)))
    assert [trial.epochs for trial in found.trials].count(4) == 1
    assert all("latency/p95Milliseconds" in trial.metrics for trial in found.trials)
    assert not any(name.startswith("test/") for trial in found.trials for name in trial.metrics)
    best = next(trial for trial in found.trials if trial.trial == result["sweep"]["best"]["trial"])
    assert set(best.metrics) >= {"validation/accuracy", "size/megabytes", "complexity/gigaMacs"}
    text = Path(result["report"]).read_text()
    for words in ("Tuning report", "Pareto front", "Learning curves", "others did better after 1 epochs", best.trial):
        assert words in text, words
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    patch = recipe_patch(find_sweep("squares", str(store)).trial("best"))
    assert patch == {"spec": {"training": {"optimizer": {"learningRate": best.parameters[RATE["path"]]}}}}
    assert not list(store.rglob("state.pt")), "checkpoints of trials that have ended are kept by nobody"


@pytest.mark.slow
def test_when_every_trial_fails_the_reason_is_named(tmp_path: Path) -> None:
    """Pixels whose standard deviation is so small that its inverse, as a float32, is infinite."""
    path = sweep(tmp_path, trials={"max": 6, "maxFailed": 1}, objectives=OBJECTIVES[:1])
    document = list(yaml.safe_load_all(path.read_text()))
    template = document[1]["spec"]["template"]["spec"]
    template["input"] = {**template.get("input", {}), "normalize": {"mean": [0, 0, 0], "std": [1e-42] * 3}}
    path.write_text(yaml.safe_dump_all(document))
    process = tune(path, tmp_path / "store")
    _, stderr = process.communicate(timeout=1200)
    assert process.returncode == 1, stderr
    assert "2 of 2 trials failed, most of them so: " in stderr
    assert "the loss is" in stderr
    assert "spec.trials.maxFailed" in stderr


def test_a_trial_without_fine_tuning_is_pruned_where_its_training_ends(tmp_path: Path) -> None:
    path = sweep(tmp_path, epochs=1, trials={"max": 1}, objectives=OBJECTIVES[:1])
    document = list(yaml.safe_load_all(path.read_text()))
    compression = {"pruning": {"sparsity": 0.5, "fineTuneEpochs": 0}}
    document[1]["spec"]["template"]["spec"]["compression"] = compression
    path.write_text(yaml.safe_dump_all(document))
    result = tune_manifest(path, str(tmp_path / "store"))
    assert result.sweep is not None
    assert (result.sweep.trials.succeeded, result.sweep.ended) == (1, "AllTrials")


def test_an_impossible_space_is_refused_before_any_work(tmp_path: Path) -> None:
    path = sweep(tmp_path, parameters=[{"path": "model.architecture", "choice": ["resnet19"]}])
    with pytest.raises(InvalidInput, match=r"spec.parameters\[0\]: .*did you mean resnet18"):
        tune_manifest(path, str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
