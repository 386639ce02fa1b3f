"""What a run's pod does around the work: an API server that is away, a full disk under the log."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset_support import detection
from fovea_api.common import PodTemplate, Resources, RunPolicy
from fovea_api.dataset import Recipe
from fovea_api.errors import InvalidInput
from fovea_api.run import RunInputs, RunOwner, RunSpec, RunType, run_identity, run_name
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.workloads import run_spec
from fovea_operator.workloads.job import BUILD, build_job
from fovea_operator.workloads.work import Work
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


def handed_over(spec: RunSpec, folder: Path) -> dict[str, str]:
    """What the operator puts into the pod: a variable, or a ConfigMap, which here is a folder."""
    work = Work("ns", "r-0123456789", 1, spec, "", StoreConfig(""))
    variables = run_spec.environment(work)
    if run_spec.needs_config_map(work):
        mounted = folder / "run"
        mounted.mkdir(exist_ok=True)
        data: Any = run_spec.config_map(work)["binaryData"]
        for name, value in data.items():
            (mounted / name).write_bytes(base64.b64decode(value))
        variables["FOVEA_RUN_FILE"] = variables["FOVEA_RUN_FILE"].replace(run_spec.FOLDER, str(mounted))
    return variables


def pod(
    voc: Path,
    folder: Path,
    attempt: int = 1,
    main: str = MAIN,
    classes: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    **limits: int,
) -> subprocess.CompletedProcess[str]:
    """`fovea run` of a dataset build in a process; by default with no API server to report to."""
    recipe = Recipe.model_validate(detection(voc, **({"classes": [*classes]} if classes else {})))
    owner = RunOwner(kind="Dataset", name="cells")
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
        **handed_over(spec, folder),
        "FOVEA_RUN_NAME": run_name(identity),
        "FOVEA_NAMESPACE": "ns",
        "FOVEA_ATTEMPT": str(attempt),
        "FOVEA_WORK_DIR": str(folder / "work"),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "1",
        **(variables or {}),
    }

    # by the process itself: a fork that runs Python before its exec may wait for a lock of one of our threads
    limited = "".join(f"resource.setrlimit(resource.{name}, ({value}, {value}))\n" for name, value in limits.items())
    script = f"import resource\n{limited}{main}"
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)


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


CHECKS = TELLS.replace("run.main()", "run.main(only_check=True)")


def test_the_check_of_the_store_reports_a_foreign_one_and_begins_no_work(voc: Path, tmp_path: Path) -> None:
    """What a Ray head does before the cluster starts."""
    ours = {"FOVEA_CLUSTER_UID": "cluster", "FOVEA_NAMESPACE_UID": "ours"}
    done = pod(voc, tmp_path, main=CHECKS, variables=ours)
    assert (done.returncode, "told:" in done.stdout) == (0, False), done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["owner.json"]
    refused = pod(voc, tmp_path, main=CHECKS, variables=ours | {"FOVEA_NAMESPACE_UID": "theirs"})
    assert refused.returncode == 75
    assert "'reason': 'StoreOwnedByAnother'" in refused.stdout
    assert "'recoverable': True" in refused.stdout
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["owner.json"]


def test_a_disk_that_is_full_is_told_as_such_and_the_log_goes_on(voc: Path, tmp_path: Path) -> None:
    done = pod(voc, tmp_path, RLIMIT_FSIZE=200_000)  # stands for the full disk: nothing can grow beyond it
    assert done.returncode == 75, done.stdout
    assert "the run ended early" in done.stdout
    assert not list((tmp_path / "store").rglob("manifest.json"))
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_a_failure_tells_where_its_log_is() -> None:
    result = failure(InvalidInput("no image is left", "spec.sources"), "s3://fovea/ns/log.txt")
    assert (result.logs, result.error and result.error.reason) == ("s3://fovea/ns/log.txt", "InvalidInput")


MANY = ["RBC", "WBC", "Platelets", *(f"a class that no image shows, number {number:05}" for number in range(5000))]
"""Classes that make a spec of over 200 KiB."""


def test_a_spec_of_200_kib_is_carried_out(voc: Path, tmp_path: Path) -> None:
    done = pod(voc, tmp_path, main=TELLS, classes=MANY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run/spec.json.gz").is_file()
    assert "told:" in done.stdout


def test_a_spec_that_somebody_exchanged_is_not_carried_out(voc: Path, tmp_path: Path) -> None:
    done = pod(voc, tmp_path, main=TELLS, classes=MANY, variables={"FOVEA_RUN_SHA256": "0" * 64})
    assert done.returncode == 1
    assert "the run spec's sha256 is" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "store").exists()


def test_a_pod_of_the_operator_runs_the_program_of_a_source_and_then_its_build(voc: Path, tmp_path: Path) -> None:
    """Container by container, each with its own variables; the folders of the pod lie below another root."""
    copy = f"import os, shutil; shutil.copytree({str(voc)!r}, os.environ['FOVEA_OUTPUT'], dirs_exist_ok=True)"
    generator = {"image": "copy:1", "args": [sys.executable, "-c", copy], "format": "PascalVOC"}
    source = {"name": "copied", "generator": generator}
    recipe, owner = (
        Recipe.model_validate({"task": "Detection", "sources": [source]}),
        RunOwner(kind="Dataset", name="d"),
    )
    identity = run_identity(RunType.DATASET_BUILD, owner, recipe, RunInputs())
    frozen, store = recipe.to_dict(), str(tmp_path / "store")
    spec = RunSpec(type=RunType.DATASET_BUILD, owner=owner, identity=identity, recipe=frozen, store=store)
    work = Work("ns", run_name(identity), 1, spec, "trainer:1", StoreConfig(store, cluster="c", namespace="n"))
    job: Any = build_job(work, BUILD, Resources(), PodTemplate(), RunPolicy(), Settings())
    pod = job["spec"]["template"]["spec"]

    def run(container: Any, command: Sequence[str], outside: Mapping[str, str]) -> str:
        given = {each["name"]: each["value"] for each in container["env"]}
        inside = {name: f"{tmp_path}{value}" if value.startswith("/fovea/") else value for name, value in given.items()}
        done = subprocess.run(command, env={**outside, **inside}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (program,), (build,) = pod["initContainers"], pod["containers"]
    cluster = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **cluster}
    told = []
    for _ in range(2):
        run(program, program["args"], {})
        told.append(run(build, [sys.executable, "-c", TELLS], variables))
    assert "'images': 24" in told[0]
    assert "the store has the result of an equal run" in told[1], "for the program has written the same"
