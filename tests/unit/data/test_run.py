"""What a run's pod does around the work: an API server that is away, a full disk under the log."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from dataset_support import detection
from fovea_api.dataset import Recipe
from fovea_api.errors import InvalidInput
from fovea_api.run import RunInputs, RunOwner, RunSpec, RunType, run_identity, run_name
from fovea_trainer.run import failure

MAIN = """
import sys
from fovea_trainer import reporting, run
reporting.RESULT_SECONDS = 0.5
sys.exit(run.main())
"""
TELLS = """
import sys
from fovea_trainer import reporting, run
reporting.RunStatus.apply = lambda self, status: print("told:", status["result"])
sys.exit(run.main())
"""
"""With an API server that takes everything."""


def pod(voc: Path, folder: Path, attempt: int = 1, main: str = MAIN, **limits: int) -> subprocess.CompletedProcess[str]:
    """`fovea run` of a dataset build in a process; by default with no API server to report to."""
    recipe, owner = Recipe.model_validate(detection(voc)), RunOwner(kind="Dataset", name="cells")
    identity = run_identity(RunType.DATASET_BUILD, owner, recipe, RunInputs())
    spec = RunSpec(
        type=RunType.DATASET_BUILD,
        owner=owner,
        identity=identity,
        recipe=recipe.to_dict(),
        store=str(folder / "store"),
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "FOVEA_RUN": spec.model_dump_json(exclude_none=True, by_alias=True),
        "FOVEA_RUN_NAME": run_name(identity),
        "FOVEA_NAMESPACE": "ns",
        "FOVEA_ATTEMPT": str(attempt),
        "FOVEA_WORK_DIR": str(folder / "work"),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "1",
    }

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    return subprocess.run(
        [sys.executable, "-c", main], env=environment, capture_output=True, text=True, preexec_fn=limit
    )


def test_a_result_that_cannot_be_reported_is_no_failure_and_the_next_attempt_finds_it(
    voc: Path, tmp_path: Path
) -> None:
    first = pod(voc, tmp_path)
    assert first.returncode == 75, first.stdout
    assert "the run is done" in first.stdout
    assert "the result could not be reported" in first.stdout
    assert "Traceback" not in first.stdout + first.stderr
    (result,) = (tmp_path / "store/dataset/cells/runs").glob("*/result.json")
    written = result.stat().st_mtime_ns
    second = pod(voc, tmp_path, attempt=2)
    assert "the store has the result of an equal run" in second.stdout
    assert result.stat().st_mtime_ns == written
    kept = (result.parent / "log.txt").read_text()
    assert kept.index("--- attempt 1 ---") < kept.index("version with its report written") < kept.index("attempt 2")


def test_a_result_and_an_error_name_the_attempt_that_tells_them(voc: Path, tmp_path: Path) -> None:
    failed = pod(tmp_path / "nothing", tmp_path, main=TELLS)
    assert failed.returncode == 1, failed.stdout
    assert "told: " in failed.stdout
    assert "'attempt': 1" in failed.stdout
    done = pod(voc, tmp_path, attempt=2, main=TELLS)
    assert done.returncode == 0, done.stdout
    assert "'attempt': 2" in done.stdout


def test_a_disk_that_is_full_is_told_as_such_and_the_log_goes_on(voc: Path, tmp_path: Path) -> None:
    done = pod(voc, tmp_path, RLIMIT_FSIZE=200_000)  # stands for the full disk: nothing can grow beyond it
    assert done.returncode == 75, done.stdout
    assert "the run ended early" in done.stdout
    assert not list((tmp_path / "store").rglob("manifest.json"))
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_a_failure_tells_where_its_log_is() -> None:
    result = failure(InvalidInput("no image is left", "spec.sources"), "s3://fovea/ns/log.txt")
    assert (result.logs, result.error and result.error.reason) == ("s3://fovea/ns/log.txt", "InvalidInput")
