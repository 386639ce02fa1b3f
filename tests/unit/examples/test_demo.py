"""What `make demo` refuses before it makes or installs anything."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).parents[3] / "examples" / "demo.py"
NOBODY = 65534
AS_NOBODY = f"""
import os, runpy, sys
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


def load_demo() -> Any:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
