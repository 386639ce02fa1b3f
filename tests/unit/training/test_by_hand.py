"""`fovea train` on a folder of pictures: what is logged, and what happens without a validation split."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import yaml
from fovea_api.errors import InvalidInput, NotSupported
from fovea_serving.backends import usable_cpus
from fovea_serving.bundle import load_bundle
from fovea_store import StorePath
from fovea_trainer.evaluation.latency import processor
from fovea_trainer.local import train_manifest
from fovea_trainer.training.loop import NO_VALIDATION
from pydantic import JsonValue
from synthetic import manifest


def test_without_a_validation_split_nothing_is_chosen_by_the_test_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = manifest(
        tmp_path,
        {"train": 32, "test": 16},
        compression={"quantization": {"calibrationImages": 16}},
        successCriteria=[{"metric": "test/accuracy", "min": 0.1}],
    )
    with caplog.at_level(logging.INFO, "fovea_trainer"):
        result = train_manifest(path, str(tmp_path / "store"))
    assert result.training is not None
    assert (result.training.best_epoch, result.training.best, result.training.input_size) == (2, None, "32x32")
    assert "test/accuracy" in result.metrics
    text = Path(str(result.report)).read_text()
    for words in (NO_VALIDATION, "the weights of the last epoch are kept", "train/accuracy is"):
        assert words in text, words
    assert "test/accuracy is" not in text, "the choice of INT8 is not made on the test split"
    story = iter(record.getMessage() for record in caplog.records)
    for chapter in (
        "DatasetBuild of Dataset squares",
        "reading source lab: 48 files",
        "48 images with 48 annotations: 32 train, 16 test",
        "version with its report written: ",
        "Training of TrainingJob squares",
        "training resnet18 (weights to start from: None) on 32 images of 32 x 32 pixels for 2 epochs of 4 steps of 8; ",
        NO_VALIDATION,
        "epoch 1/2 in ",
        "epoch 2/2 in ",
        "the weights of epoch 2 are exported",
        "PyTorch and model.onnx agree on 8 images",
        "is delivered: train/accuracy is",
        "on the 16 images of the test split: test/accuracy",
        "success criterion met: test/accuracy",
        f"bundle with model and report: {result.artifact}",
    ):
        assert any(chapter in line for line in story), f"{chapter!r} is missing, or not at its place"


@pytest.mark.parametrize(
    ("latency", "refused"),
    [
        ({"nodeSelector": {"disk": "ssd"}}, r"latency\.nodeSelector: latency can be measured on another node on a clu"),
        ({"resources": {"requests": {"cpu": "4096"}}}, r"latency\.resources: latency is to be measured on 4096 CPUs"),
        ({"resources": {"limits": {"cpu": "500m"}}}, r"latency\.resources: latency is to be measured on 500m CPUs"),
    ],
)
def test_latency_that_this_machine_cannot_measure_is_refused_before_any_work(
    tmp_path: Path, latency: JsonValue, refused: str
) -> None:
    """A cluster would adopt the result as its own."""
    path = manifest(tmp_path, {"train": 8}, evaluation={"latency": latency})
    with pytest.raises(NotSupported, match=refused):
        train_manifest(path, str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_latency_is_measured_here_on_the_cpus_that_are_asked_for_and_that_is_recorded(tmp_path: Path) -> None:
    cpus = usable_cpus()
    latency: JsonValue = {"resources": {"requests": {"cpu": str(cpus)}}}
    path = manifest(
        tmp_path,
        {"train": 16, "validation": 8},
        training={"epochs": 1, "batchSize": 8, "precision": "FP32"},
        evaluation={"latency": latency, "splits": ["validation"]},
    )
    result = train_manifest(path, str(tmp_path / "store"))
    assert result.training is not None
    where = result.training.latency_measured_on
    assert where is not None
    assert (where.cpus, where.device, where.node) == (cpus, "CPU", platform.node())
    assert where.processor == processor()
    bundle = load_bundle(str(result.artifact))
    assert bundle.manifest.metrics.latency_measured_on == where
    assert f"Latency is that of one image on {where}." in (bundle.path / "report.html").read_text()


XEON, BOARD = "Intel(R) Xeon(R) CPU @ 2.60GHz", "Raspberry Pi 5 Model B Rev 1.0"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (f"processor\t: 0\nmodel\t\t: 85\nmodel name\t: {XEON}\nflags\t: fpu", XEON),
        (f"processor\t: 0\nCPU part\t: 0xd0b\n\nModel\t\t: {BOARD}\n", BOARD),
        ("processor\t: 0\nCPU part\t: 0xd0b\n", platform.machine()),
    ],
    ids=["x86", "an ARM board", "an ARM server"],
)
def test_the_model_of_the_cpu_is_what_the_kernel_calls_it(cpuinfo: str, name: str) -> None:
    assert processor(cpuinfo) == name


SCRIPT = """
import logging, sys
from fovea_api.run import Progress
from fovea_trainer.reporting import TerminalReporter, log_to_terminal
with TerminalReporter() as reporter, log_to_terminal():
    for percent in (10, 20, 30):
        reporter.report(Progress(stage="Training", percent=percent))
        logging.getLogger("fovea_trainer.x").info("a line of the log at %d", percent)
print("the end", file=sys.stderr)
"""


def test_the_log_does_not_break_the_progress_bar() -> None:
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=terminal, env=environment, check=True)
    os.close(terminal)
    shown = _screen(_everything(main).decode())
    os.close(main)
    assert [line[9:] for line in shown[:3]] == [f"a line of the log at {percent}" for percent in (10, 20, 30)]
    assert shown[3].startswith("Training")
    assert "30 %" in shown[3]
    assert shown[4] == "the end"


def _everything(main: int) -> bytes:
    """What was written to a terminal that nobody has open any more; it may come in parts."""
    parts = []
    with contextlib.suppress(OSError):  # its end
        while part := os.read(main, 65536):
            parts.append(part)
    return b"".join(parts)


def _screen(text: str) -> list[str]:
    """Lines as a terminal shows them: a carriage return goes to the line's start and overwrites."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


STOPPED = """
import logging, os, signal

class Stops(logging.Handler):
    def emit(self, record):
        if "epoch 1/6" in record.getMessage():
            os.kill(os.getpid(), signal.SIGTERM)

logging.getLogger("fovea_trainer").addHandler(Stops())
"""
"""Gets the signal as soon as the first epoch is told of: from outside it may come an epoch later."""


def test_a_training_that_is_stopped_saves_its_state_and_goes_on_from_it(tmp_path: Path) -> None:
    training = {"epochs": 6, "batchSize": 8, "precision": "FP32"}
    path = manifest(tmp_path, {"train": 32, "validation": 8}, training=training, evaluation={"splits": ["validation"]})
    words = ["train", "-f", str(path), "--store", str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", f"{script}from fovea_cli.main import main; main()", *words]
        return subprocess.run(command, capture_output=True, env=environment, text=True)

    stopped = run(STOPPED)
    assert stopped.returncode == 75, stopped.stderr
    assert "its state saved" in stopped.stderr
    again = run("")
    assert again.returncode == 0, again.stderr
    assert "training goes on after epoch 1, step" in again.stderr
    assert "epoch 1/6" not in again.stderr
    assert "epoch 6/6" in again.stderr


def test_on_ray_an_error_that_is_final_is_met_twice_at_most(tmp_path: Path) -> None:
    overflow: dict[str, JsonValue] = {"mean": [0, 0, 0], "std": [1e-42] * 3}
    path = manifest(tmp_path, {"train": 32}, input={"size": {"width": 32, "height": 32}, "normalize": overflow})
    script = f"""
from pathlib import Path
from fovea_trainer.local import train_manifest
from fovea_trainer.training.loop import TrainingDiverged
try:
    train_manifest(Path({str(path)!r}), {str(tmp_path / "store")!r}, ray=True)
except TrainingDiverged as error:
    print("error:", error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, text=True)
    assert "error: spec.training: the loss is" in done.stdout, done.stderr[-3000:]
    assert "lower optimizer.learningRate" in done.stdout


def test_the_problem_in_other_words_builds_nothing_and_is_in_the_next_report(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"train": 16, "validation": 4}, training={"epochs": 1, "batchSize": 8})
    first = train_manifest(path, str(tmp_path / "store"))
    dataset, job = yaml.safe_load_all(path.read_text())
    dataset["spec"]["problem"] = {"statement": "Tell red from blue"}
    job["spec"]["training"]["seed"] = 1
    path.write_text(yaml.safe_dump_all([dataset, job]))
    second = train_manifest(path, str(tmp_path / "store"))
    assert len(list((tmp_path / "store/dataset/squares/runs").iterdir())) == 1
    reports = [StorePath.parse(str(result.report)).read_text() for result in (first, second)]
    assert ["Tell red from blue" in report for report in reports] == [False, True]


def test_what_can_never_work_is_refused_before_the_pictures_are_read(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"train": 1}, successCriteria=[{"metric": "test/acuracy", "min": 0.5}])
    with pytest.raises(InvalidInput, match=r"successCriteria\[0\].*did you mean test/accuracy"):
        train_manifest(path, str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_one_image_of_one_pixel_under_batch_norm_is_refused_in_words(tmp_path: Path) -> None:
    model: JsonValue = {
        "architecture": "resnet18",
        "options": {"width": 0.125},
        "pretrained": {"weights": "None"},
    }
    path = manifest(tmp_path, {"train": 4, "test": 2}, model=model, training={"epochs": 1, "batchSize": 1})
    with pytest.raises(InvalidInput, match="single value a channel") as error:
        train_manifest(path, str(tmp_path / "store"))
    assert error.value.location == "spec.training.batchSize"
