"""The README's commands, word for word. `make demo` is the fixture `demo`; CI itself runs the rest of its block."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import Demo, short_job
from tests.kube import ROOT, documents

pytestmark = pytest.mark.timeout(3000)


def commands(heading: str) -> list[str]:
    """The commands of the first shell block below a heading of README.md, without their comments."""
    section = (ROOT / "README.md").read_text().split(f"\n## {heading}\n")[1]
    block = re.split(r"^```(?:sh)?\n", section, flags=re.MULTILINE)[1]
    joined = block.replace("\\\n", " ")
    return [line for text in joined.splitlines() if (line := text.partition("  #")[0].strip())]


def test_try_it_is_what_ci_runs() -> None:
    given = (ROOT / ".ci" / "run").read_text()
    demo, tests = commands("Try it")
    assert demo == "make demo"
    assert tests.removeprefix("make ") in given


GUIDE = {
    "first-model.md": {
        "kubectl apply -f docs/guide/first-namespace.yaml": "with other names, by the fixture demo",
        "fovea push photos pvc://datasets/photos --namespace vision": "by test_newcomer",
        "kubectl -n vision apply -f photos.yaml": "by test_newcomer",
        "kubectl -n vision get datasets,trainingjobs": "by test_newcomer",
        "kubectl -n vision wait --for=condition=Ready trainingjob/photos --timeout=2h": "by test_newcomer",
        "fovea pull photos --namespace vision": "by test_newcomer",
    },
    "platform.md": {
        "helm upgrade --install fovea charts/fovea": "with other images, by the fixture demo",
        "kubectl get deployment -n fovea-system": "nowhere",
        "kubectl explain trainingjob.spec.training": "by test_kubernetes",
        "kubectl -n vision create quota vision": "quotas, by test_faults",
        "kubectl -n vision patch trainingjob photos --type=merge "
        '--patch=\'{"spec": {"runPolicy": {"queueName": "vision"}}}\'': "a queue, by test_examples",
        "kubectl -n vision get runs": "by test_kubernetes",
        "kubectl -n vision describe trainingjob photos": "nowhere",
    },
}
"""Commands of the guide that need a cluster, by their beginning, and where they are run."""


@pytest.mark.parametrize("page", GUIDE)
def test_it_is_known_where_the_guides_commands_for_a_cluster_are_run(page: str) -> None:
    text = (ROOT / "docs" / "guide" / page).read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    written = [line for block in blocks for line in block.splitlines()]
    assert [next((known for known in GUIDE[page] if line.startswith(known)), line) for line in written] == [
        *GUIDE[page]
    ]


@pytest.mark.slow  # tests/unit/examples/test_guide.py trains by hand, too
def test_train_by_hand(demo: Demo, tmp_path: Path) -> None:
    """In a folder of its own with the repository's files, so that the store starts empty; for one epoch."""
    mirror(ROOT, tmp_path, leave_out=("fovea-store", ".demo", "examples"))
    mirror(ROOT / "examples", tmp_path / "examples", leave_out=("blood-cells.yaml",))
    dataset, _ = documents(ROOT / "examples" / "blood-cells.yaml")
    (tmp_path / "examples" / "blood-cells.yaml").write_text(yaml.safe_dump_all([dataset, short_job(1, 0)]))
    for command in commands("Train by hand"):
        done = subprocess.run(["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "met     test/mAP50" in done.stdout
    (bundle,) = (tmp_path / "fovea-store").glob("trainingjob/blood-cells/bundles/*")
    assert {path.name for path in bundle.iterdir()} == {
        Path(entry.path).parts[0] for entry in demo.stored(demo.summary["bundle"]).files()
    }, "by hand and on a cluster a bundle has the same files"


def mirror(folder: Path, target: Path, leave_out: tuple[str, ...]) -> None:
    """Links to what a folder holds."""
    target.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in leave_out:
            (target / path.name).symlink_to(path)


def test_kubernetes(demo: Demo, tmp_path: Path) -> None:
    """Against the demo's cluster and namespace, where the model is trained already; --reuse-values keeps its images."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_bytes(demo.kubeconfig.read_bytes())
    environment = demo.environment | {"KUBECONFIG": str(kubeconfig)}
    context = ["kubectl", "config", "set-context", "--current", f"--namespace={demo.namespace}"]
    subprocess.run(context, env=environment, check=True, capture_output=True)
    for command in commands("Kubernetes"):
        if command.startswith("helm"):
            command = command.replace("BUCKET", "fovea") + " --reuse-values --force-conflicts --wait"
        if " apply " in command:
            command += " --server-side --force-conflicts"
        done = subprocess.run(["bash", "-ec", command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "condition met" in done.stdout
