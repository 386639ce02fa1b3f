"""Each error ends with its exit code and one message that names the place; none with a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli_support import Fovea, write_manifest
from click.testing import CliRunner
from fovea_api.errors import Interrupted, InvalidInput, InvalidManifest, NotSupported
from fovea_cli.main import Commands, Failure, explain
from fovea_serving.bundle import CorruptBundle
from fovea_store import AccessDenied, NotFound, StoreUnavailable

PARTS = [str(Path(__file__).parents[3] / part) for part in ("crds", "operator", "trainer", "serving", "cli")]
FAILURES = [
    (InvalidInput("wrong", "spec.x", "write y"), 1, "spec.x: wrong (write y)"),
    (InvalidManifest("wrong", "a.yaml"), 1, "a.yaml: wrong"),
    (NotSupported("not yet"), 1, "not yet"),
    (CorruptBundle("changed", "model.onnx"), 1, "model.onnx: changed"),
    (NotFound("there is nothing"), 1, "there is nothing"),
    (AccessDenied("refused"), 75, "refused"),
    (StoreUnavailable("no answer", "s3://fovea"), 75, "s3://fovea: no answer"),
    (Interrupted("stopped"), 75, "stopped"),
    (PermissionError(13, "Permission denied", "/etc/x"), 1, "/etc/x: Permission denied"),
    (OSError(28, "Error writing bytes to file"), 75, "no space is left (make room or enlarge the volume)"),
    (ModuleNotFoundError("no", name="torch"), 1, "`fovea train` (module torch) needs packages that are not installed "
                                                 "(pip install 'fovea[trainer]')"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "message"), FAILURES, ids=[type(it[0]).__name__ for it in FAILURES])
def test_table_of_errors(error: Exception, code: int, message: str) -> None:
    assert explain(error, "train") == Failure(message, code)


@pytest.mark.parametrize(
    "error", [ValueError("odd"), OSError("odd"), ModuleNotFoundError("odd", name="fovea_trainer.gone")]
)
def test_what_nobody_foresaw_leaves_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    @click.command("train")
    def broken() -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("fovea_cli.train.command", broken)
    done = CliRunner().invoke(Commands(name="fovea"), ["train"])
    (log,) = tmp_path.iterdir()
    assert done.exit_code == 1
    assert done.stderr == (
        f"fovea: unexpected error, please report it: {type(error).__name__}: odd (the traceback is in {log})\n"
    )
    assert "in broken" in log.read_text()


def test_a_store_that_does_not_answer_ends_with_75(tmp_path: Path) -> None:
    """In a process of its own: the endpoint is read once."""
    environment = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
                   "AWS_MAX_ATTEMPTS": "1"}  # fmt: skip
    done = _script("report", "s3://fovea/bundle", cwd=tmp_path, **environment)
    assert done.returncode == 75, done.stderr
    assert done.stderr.startswith("fovea: s3://fovea/bundle: ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"kind: [Dataset\nmetadata: {}\n", r"line 2, column 9"),
        (b"kind: \xff\n", r"the file is not UTF-8 text \(save it as UTF-8\)"),
        (b"kind: \x07\n", r"the file is no YAML: .*#x0007"),
        (b"", r"exactly one TrainingJob is needed; the file has none"),
        (b"- a\n", r"exactly one TrainingJob is needed; the file has none"),
        (b"kind: TrainingJob\n", r"metadata: "),
    ],
)
def test_a_file_that_is_no_manifest(fovea: Fovea, tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    done = fovea("train", "-f", file, "--store", tmp_path / "store")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"fovea: {file}: ")
    assert re.search(told, done.stderr, re.DOTALL), done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"training": {"epochs": 0}}, "spec.training.epochs: "),
        ({"model": {"architecture": "resnet19"}}, "spec.model.architecture: "),
        ({"epochs": 3}, "spec.epochs: "),
        ({"model": {"architecture": "resnet18", "options": {"width": 99}}}, "spec.model.options.width: "),
        ({"datasetRef": {"name": "shapes"}}, "exactly one Dataset 'shapes' is needed; the file has colours (name one"),
    ],
)
def test_a_wrong_field_is_named(
    fovea: Fovea, pictures: Path, tmp_path: Path, spec: dict[str, object], told: str
) -> None:
    manifest = write_manifest(tmp_path / "x.yaml", pictures, **spec)
    done = fovea("train", "-f", manifest, "--store", tmp_path / "store")
    assert (done.exit_code, done.stdout) == (1, "")
    assert told in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("train",),
        ("train", "-f", "missing.yaml"),
        ("dataset", "build", "-f", "/", "--store", "x"),
        ("dataset", "build", "-f", __file__, "--source", "lab"),
        ("predict", "missing", "missing.png"),
        ("models", "--output", "xml"),
        ("serve", "/", "--admin-port", "8080"),
        ("serve", "/", "--timeout", "0"),
    ],
)
def test_a_wrong_command_line_ends_with_2(fovea: Fovea, words: tuple[str, ...]) -> None:
    done = fovea(*words)
    assert done.exit_code == 2
    assert "Usage: fovea" in done.stderr


def test_a_store_that_is_none(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "x.yaml", pictures)
    done = fovea("dataset", "build", "-f", manifest, "--store", "ftp://host/x")
    assert (done.exit_code, "fovea: ftp://host/x: ftp:// is not a store" in done.stderr) == (1, True)


def test_services_find_no_cluster(tmp_path: Path) -> None:
    run = _script("run", cwd=tmp_path)
    assert run.returncode == 1
    assert "the variable FOVEA_RUN is not set (`fovea run` works in a run's pod only)" in run.stdout  # a pod's log
    assert "Traceback" not in run.stdout + run.stderr
    operator = _script("operator", cwd=tmp_path, KUBECONFIG=str(tmp_path / "none"))
    assert operator.returncode == 1
    assert "no cluster is known" in operator.stderr
    assert "Traceback" not in operator.stderr


HIDDEN = ("cv2", "kopf", "kubernetes", "numpy", "onnxruntime", "pyarrow", "ray", "torch", "torchvision")
WITHOUT = f"""
import sys
from importlib.abc import MetaPathFinder

class Hider(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HIDDEN}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hider())
import fovea_api, fovea_cli
"""


@pytest.mark.parametrize("words", [("--help",), ("models",), ("crds",), ("completion", "bash"), ("train", "--help")])
def test_what_needs_no_extra_works_without(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = _script(*words, cwd=tmp_path, before=WITHOUT)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("train", "-f", "x.yaml"), "trainer"),
        (("dataset", "build", "-f", "x.yaml"), "trainer"),
        (("report", "bundle"), "serving"),
        (("logs", "r-1"), "trainer"),
        (("run",), "trainer"),
        (("predict", ".", "x.yaml"), "serving"),
        (("operator",), "operator"),
    ],
)
def test_the_missing_extra_is_named(tmp_path: Path, words: tuple[str, ...], extra: str) -> None:
    (tmp_path / "x.yaml").touch()
    done = _script(*words, cwd=tmp_path, before=WITHOUT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fovea: `fovea {words[0]}` (module ")
    assert done.stderr.endswith(f"(pip install 'fovea[{extra}]')\n")


def _script(*words: str, cwd: Path, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The console script in a process of its own."""
    script = f"{before}\nfrom fovea_cli.main import main\nmain()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PARTS), **variables}
    return subprocess.run(
        [sys.executable, "-c", script, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )
