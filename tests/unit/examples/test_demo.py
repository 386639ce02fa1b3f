"""What `make demo` refuses before it makes or installs anything."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

DEMO = Path(__file__).parents[3] / "examples" / "demo.py"
NOBODY = 65534
AS_NOBODY = f"""
import os, runpy, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))  # as for a script
demo = runpy.run_path(sys.argv[1])
os.getuid() or os.setuid({NOBODY})  # after the imports: root's Python need not be everybody's
sys.exit(demo["main"]())
"""
IMAGES = {f"{name.upper()}_IMAGE": f"registry.example:5000/{name}:1" for name in ("operator", "trainer", "serving")}
KUBECTL = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
*current-context*) echo lab ;;
*view*) printf https://lab.example:6443 ;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with a stand-in for kubectl, of a cluster without KubeRay, and with a helm that must not be called."""
    for name, text in (("kubectl", KUBECTL), ("helm", "#!/bin/sh\necho helm >> {folder}/calls\n")):
        program = tmp_path / name
        program.write_text(text.format(folder=tmp_path))
        program.chmod(0o755)
    (tmp_path / "secret.yaml").touch()
    return tmp_path


def demo(path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": f"{path}:/usr/bin:/bin" if path != Path() else "/nowhere", "HOME": os.environ.get("HOME", "/")}
    return subprocess.run([sys.executable, DEMO], env=given | variables, capture_output=True, text=True)


def test_the_devcluster_needs_root() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, DEMO], env={"CLUSTER": "devcluster"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("demo: the devcluster needs root.")
    assert "CLUSTER=local for the same without Kubernetes" in done.stderr


@pytest.mark.parametrize(
    ("programs", "variables", "chosen"),
    [
        ((), {}, "local no cluster can be had"),
        (("docker", "kind", "kubectl", "helm"), {}, "local"),
        (("docker", "kind", "kubectl", "helm"), {"STORE_SECRET": "x.yaml"}, "kind Docker and kind are here"),
        (("kubectl", "helm"), {"STORE_SECRET": "x.yaml", **IMAGES}, "current kubectl is here"),
        ((), {"KUBECONFIG": "x"}, "current KUBECONFIG is set"),
    ],
)
def test_the_demo_takes_what_the_machine_can_have(
    programs: tuple[str, ...], variables: dict[str, str], chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user who is not root, for root on Debian has the devcluster."""
    for name in programs:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    for name in ("KUBECONFIG", "STORE_SECRET", *IMAGES):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PATH": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.geteuid", lambda: NOBODY)
    assert " ".join(load_demo().choose()).startswith(chosen)


def test_an_unknown_cluster() -> None:
    done = demo(Path(), CLUSTER="nonsense")
    assert (done.returncode, done.stderr) == (
        1, "demo: there is no CLUSTER=nonsense; it is one of devcluster, kind, current, local\n",
    )  # fmt: skip


def test_missing_programs_are_named() -> None:
    done = demo(Path(), CLUSTER="current")
    assert done.returncode == 1
    assert done.stderr.endswith("CLUSTER=current needs kubectl, helm; not on the PATH: kubectl, helm\n")


def test_a_cluster_of_ones_own_needs_images_and_a_store(programs: Path) -> None:
    without = demo(programs, KUBECONFIG="x")
    assert without.returncode == 1
    assert without.stderr.startswith(
        "demo: CLUSTER=current needs OPERATOR_IMAGE and TRAINER_IMAGE and SERVING_IMAGE, such as "
    )
    one = demo(programs, KUBECONFIG="x", OPERATOR_IMAGE="registry.example/operator:1")
    assert one.stderr.startswith("demo: CLUSTER=current needs TRAINER_IMAGE and SERVING_IMAGE, such as ")
    for secret in ({}, {"STORE_SECRET": "missing.yaml"}):
        done = demo(programs, KUBECONFIG="x", **IMAGES, **secret)
        assert done.returncode == 1
        assert done.stderr.startswith("demo: CLUSTER=current needs STORE_SECRET, a file with the manifest of a Secret")
    assert not (programs / "calls").exists()


def test_a_cluster_without_kuberay_gets_nothing_installed(programs: Path) -> None:
    done = demo(programs, CLUSTER="current", STORE_SECRET=str(programs / "secret.yaml"), **IMAGES)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "== current: as CLUSTER says", "== current: context lab, https://lab.example:6443",
    ]  # fmt: skip
    assert "install it: helm upgrade --install kuberay-operator" in done.stderr
    calls = (programs / "calls").read_text().splitlines()
    assert all(call.startswith(("config ", "get ")) for call in calls), calls


@pytest.mark.parametrize(
    ("image", "values"),
    [
        ("fovea.local/operator:dev", "image.repository=fovea.local/operator,image.tag=dev,image.digest="),
        ("host:5000/x/operator:1.0", "image.repository=host:5000/x/operator,image.tag=1.0,image.digest="),
        ("host:5000/operator@sha256:ab", "image.repository=host:5000/operator,image.tag=,image.digest=sha256:ab"),
        ("operator", "image.repository=operator,image.tag=,image.digest="),
    ],
)
def test_an_image_in_the_charts_values(image: str, values: str) -> None:
    assert load_demo().operator_values(image) == values


SUMMARY = {
    "cluster": "devcluster: this is Debian, and you are root",
    "dataset": {"images": 364, "annotations": 4888, "splits": {"train": 255, "validation": 36, "test": 73}},
    "metrics": {"test/mAP50": 0.886},
    "successCriteria": [{"metric": "test/mAP50", "min": 0.85, "met": True}],
    "serving": {
        "image": "a.jpg", "objects": {"RBC": 15}, "url": "http://cells", "latencyP95Milliseconds": 120.0,
    },
    "seconds": {"training": 600.0},
}  # fmt: skip
GATE = {"metric": "errorRate", "message": "errorRate is <below> 0.1"}
LOOP = {
    "usual": {"state": "None", "message": "60 images"},
    "detected": {"state": "Detected", "message": "of 40 images: effects brightness -1.00"},
    "before": {"images": 73, "f1": 0.43, "run": "r-1"},
    "after": {"images": 73, "f1": 0.81, "run": "r-2"},
    "versions": [{"images": 364}, {"images": 439}],
    "retraining": {"run": "r-2", "outcome": "Promoted", "message": "better by 0.2"},
    "rollout": [{"phase": "Canary", "weight": 50, "analysis": [GATE]}],
    "events": [{"time": "2026-01-01T10:00:00.000000Z", "reason": "Promoted", "message": "version r-2 serves"}],
    "minutes": 6.1,
    "seconds": {"the rollout": 60.0},
}


def test_the_page_tells_what_happened_and_links_what_there_is(tmp_path: Path) -> None:
    page = load("page")
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "report.html").touch()
    (tmp_path / "answer.jpg").write_bytes(b"picture")
    shown = page.write(tmp_path).read_text()
    assert 'href="report.html"' in shown
    assert "drift.html" not in shown, "there is none"
    assert "data:image/jpeg;base64," in shown
    assert "0.886" in shown
    assert "took over" not in shown, "the loop did not run"
    (tmp_path / "loop.json").write_text(json.dumps(LOOP))
    shown = page.write(tmp_path).read_text()
    for words in ("0.43", "0.81", "75 of the new images", "errorRate is &lt;below&gt; 0.1", "10:00:00", "version r-2"):
        assert words in shown, words
    assert not re.search(r'(src|href)="(https?:|//)', shown), "self-contained"
    kept = {**LOOP, "retraining": {"outcome": "Refused", "message": "no such option"}}  # it has no run
    (tmp_path / "loop.json").write_text(json.dumps(kept))
    shown = page.write(tmp_path).read_text()
    assert "The model that serves has stayed" in shown
    assert "took over" not in shown
    assert "Outcome: Refused" in shown


def test_the_loop_is_not_told_of_a_namespace_whose_model_has_learned_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier one has left would be reported as this one's."""
    loop = load("loop")
    retraining = {"history": [{"outcome": "Promoted"}]}
    monkeypatch.setattr(
        loop, "get", lambda kind, name="": {"status": {"stable": {"bundle": "s3://b"}, "retraining": retraining}}
    )
    monkeypatch.setattr(loop, "apply", lambda *given: pytest.fail("it was applied"))
    with pytest.raises(SystemExit, match="has learned from the laboratory already"):
        loop.main()
    assert loop.retrained({"outcome": "Refused"}) is None


def test_the_dataset_is_read_again_at_the_next_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute that has begun when the schedule is applied comes again in an hour."""
    loop, applied = load("loop"), []
    monkeypatch.setattr(loop.subprocess, "run", lambda command, input, **options: applied.append(input))
    for second, minute in ((54, 0), (56, 1), (0, 0)):
        loop.apply("s3://fovea/captures/x", datetime(2026, 1, 1, 9, 59, second, tzinfo=UTC) + loop.SOON)
        dataset, deployment = yaml.safe_load_all(applied.pop())
        assert dataset["spec"]["refresh"]["schedule"] == f"{minute} * * * *"
        assert (
            dataset["spec"]["sources"][1]["uri"]
            == deployment["spec"]["monitoring"]["captures"]["uri"]
            == "s3://fovea/captures/x"
        )


def test_the_loop_example_is_that_of_the_demo_but_for_what_the_loop_needs() -> None:
    """People apply it over the others: what it does not mean to change must be the same there."""
    (plain, _), (service,) = documents("blood-cells.yaml"), documents("blood-cells-serving.yaml")
    dataset, looped = documents("blood-cells-loop.yaml")
    first, captures = dataset["spec"]["sources"]
    assert {**dataset["spec"], "sources": [first], "refresh": None} == {**plain["spec"], "refresh": None}
    assert captures["uri"] == looped["spec"]["monitoring"]["captures"]["uri"]
    for name in service["spec"].keys() - {"rollout"}:
        assert looped["spec"][name] == service["spec"][name]


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEMO.parent / name).read_text()))


def load_demo() -> Any:
    return load("demo")


def load(name: str) -> Any:
    """A module beside the demo, which imports others there."""
    sys.path.insert(0, str(DEMO.parent))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DEMO.parent))
