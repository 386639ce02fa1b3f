"""What the commands of the README print, and with what they end."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest
import yaml
from cli_support import Fovea, Trained, write_manifest
from fovea_api.architectures import catalogue
from fovea_api.figures import measured
from fovea_cli import models

ROOT = Path(__file__).parents[3]


def test_train_prints_metrics_bundle_and_verdicts(fovea: Fovea, trained: Trained) -> None:
    assert 0 <= trained.result["metrics"]["test/accuracy"] <= 1
    assert [verdict["met"] for verdict in trained.result["successCriteria"]] == [True]
    again = fovea("train", "-f", trained.manifest, "--store", trained.store)
    assert again.exit_code == 0
    assert f"bundle  {trained.bundle}\n" in again.stdout
    assert "test/accuracy" in again.stdout
    assert "met     size/megabytes" in again.stdout


def test_a_missed_criterion_ends_with_3(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    wanted = [{"metric": "test/accuracy", "min": 0.0}, {"metric": "size/megabytes", "max": 0.001}]
    manifest = write_manifest(tmp_path / "colours.yaml", trained.pictures, successCriteria=wanted)
    done = fovea("train", "-f", manifest, "--store", trained.store)
    assert done.exit_code == 3
    assert "met     test/accuracy" in done.stdout
    assert "MISSED  size/megabytes" in done.stdout
    assert str(trained.bundle) in done.stdout, "the same training, judged anew"


def test_dataset_build_prints_the_version_that_train_uses(fovea: Fovea, trained: Trained) -> None:
    text = fovea("dataset", "build", "-f", trained.manifest, "--store", trained.store)
    data = json.loads(fovea("dataset", "build", "-f", trained.manifest, "--store", trained.store, "-o", "json").stdout)
    assert [line.split() for line in text.stdout.splitlines()[:4]] == [
        ["SPLIT", "IMAGES"], ["train", "16"], ["validation", "8"], ["test", "8"],
    ]  # fmt: skip
    lineage = yaml.safe_load((trained.bundle / "bundle.yaml").read_text())["lineage"]
    assert f"version  {data['digest']}\n" in text.stdout
    assert lineage["dataset"]["version"] == data["digest"]
    assert Path(data["report"]).is_file()


def test_dataset_build_prints_classes_and_counts(fovea: Fovea, trained: Trained) -> None:
    lines = fovea("dataset", "build", "-f", trained.manifest, "--store", trained.store).stdout.splitlines()
    data = json.loads(fovea("dataset", "build", "-f", trained.manifest, "--store", trained.store, "-o", "json").stdout)
    rows = [line.split() for line in lines]
    assert ["CLASS", "IMAGES", "ANNOTATIONS"] in rows
    for each in data["dataset"]["classes"]:
        assert [each["name"], str(each["images"]), str(each["annotations"])] in rows


def test_dataset_check_says_what_a_build_would_find_and_builds_nothing(
    fovea: Fovea, trained: Trained, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(trained.pictures, pictures)
    (broken := next(pictures.rglob("*.png"))).write_bytes(b"no image")
    done = fovea("dataset", "check", pictures)
    assert done.exit_code == 0, done.output
    for words in ("read as ImageFolder for Classification", "Corrupt image (CorruptImage), 1 times in 1 images",
                  f"folder: {broken.relative_to(pictures)}: ", "it can be built"):  # fmt: skip
        assert words in done.stdout
    data = json.loads(fovea("dataset", "check", pictures, "-o", "json").stdout)
    assert data["refusal"] is None
    assert [each["kind"] for each in data["findings"] if each["severity"] == "Warning"] == ["CorruptImage"]
    data.pop("refusal")
    first = json.loads(fovea("init", pictures, "--file", tmp_path / "x.yaml", "-o", "json").stdout)
    assert data == {name: first[name] for name in data}, "a folder's own splits count for both"
    assert data["summary"]["splits"]["validation"] == 8
    (tmp_path / "x.yaml").unlink()
    assert fovea("dataset", "check", trained.manifest).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


def test_dataset_check_ends_with_1_where_the_build_would_be_refused(fovea: Fovea, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text("names: [cat]")
    (tmp_path / "images/a.png").write_bytes(b"no image")
    done = fovea("dataset", "check", tmp_path)
    assert done.exit_code == 1
    assert "the build would be refused" in done.stdout
    other = fovea("dataset", "check", tmp_path, "--format", "Yolo")
    assert other.exit_code == 1
    assert "Traceback" not in other.output


def test_dataset_build_takes_a_source_from_where_it_lies(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "colours.yaml", Path("/not/here"))
    place = ("-f", manifest, "--store", tmp_path / "store")
    gone = fovea("dataset", "build", *place)
    assert (gone.exit_code, "/not/here" in gone.stderr) == (1, True)
    assert fovea("dataset", "build", *place, "--source", f"lab={pictures}").exit_code == 0
    other = fovea("dataset", "build", *place, "--source", f"clinic={pictures}")
    assert (other.exit_code, "the Dataset has lab" in other.stderr) == (1, True)


def test_predict_names_classes_and_draws(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    images = trained.pictures / "test"
    text = fovea("predict", trained.bundle, images, "--draw", tmp_path / "drawn")
    assert text.exit_code == 0, text.output
    assert text.stdout.splitlines()[0].split() == ["IMAGE", "PREDICTION"]
    assert len(text.stdout.splitlines()) == 9
    drawn = {file.name: cv2.imread(str(file)) for file in (tmp_path / "drawn").iterdir()}
    assert set(drawn) == {file.name for file in images.rglob("*.png")}
    assert {image.shape for image in drawn.values()} == {(32, 32, 3)}
    one = images / "red" / "test-0.png"
    found = json.loads(fovea("predict", trained.bundle, one, "--output", "json").stdout)
    assert {entry["class"] for entry in found[str(one)]["classes"]} == {"red", "blue"}
    many = fovea("predict", trained.bundle, images, "--to", tmp_path / "many.parquet", "--output", "json")
    assert json.loads(many.stdout) == {"file": str(tmp_path / "many.parquet"), "images": 8}


def test_predict_says_what_is_wrong(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "test-0.png").mkdir()
    (tmp_path / "words.png").write_text("no picture")
    one = trained.pictures / "test" / "red" / "test-0.png"
    for words, told in (
        ((tmp_path, one), f"{tmp_path}/bundle.yaml: no such file"),
        ((trained.bundle, tmp_path / "words.png"), f"{tmp_path}/words.png: the bytes are no image"),
        ((trained.bundle, tmp_path / "test-0.png"), "no images found"),
        ((trained.bundle, one, "--draw", tmp_path), f"{tmp_path}/test-0.png: Is a directory"),
    ):
        done = fovea("predict", *words)
        assert (done.exit_code, done.stdout) == (1, ""), told
        assert done.stderr.startswith(f"fovea: {told}") or told in done.stderr


def test_report_is_copied(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    done = fovea("report", trained.bundle, "--to", target)
    assert (done.exit_code, done.stdout) == (0, f"{target}\n")
    assert target.read_bytes() == (trained.bundle / "report.html").read_bytes()
    (tmp_path / "file").touch()
    shutil.copytree(trained.bundle, tmp_path / "edited")
    (tmp_path / "edited/bundle.yaml").write_text("[]")
    for artifact, to, told in (
        (tmp_path / "edited", target, f"fovea: {tmp_path}/edited/bundle.yaml: not a mapping"),
        (tmp_path, target, f"fovea: {tmp_path}/report.html: there is nothing"),
        ("http://bucket/bundle", target, "fovea: http://bucket/bundle: http:// is not a store"),
        (trained.bundle, tmp_path / "file" / "report.html", f"fovea: {tmp_path}/file"),
    ):
        done = fovea("report", artifact, "--to", to)
        assert done.exit_code != 0
        assert done.stderr.startswith(told)


def test_models_lists_every_architecture(fovea: Fovea) -> None:
    text = fovea("models").stdout.splitlines()
    data = json.loads(fovea("models", "--output", "json").stdout)
    columns = "NAME TASK INPUT M PARAMETERS G MACS MB CPU MS WEIGHTS LICENCE OF WEIGHTS OPTIONS"
    assert " ".join(text[0].split()) == columns
    assert [line.split()[0] for line in text[1:]] == [model["name"] for model in data]
    (line,) = (line for line in text if line.startswith("resnet18 "))
    assert "224 x 224   11.2           1.81 " in line, "as torchvision states but for its classes"
    assert "None, ImageNet (packaged)" in next(line for line in text if line.startswith("efficientnet-lite0 "))
    assert {model["name"] for model in data} == {model.name for model in catalogue().values()}


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ("--max-parameters", "megaParameters"),
        ("--max-macs", "gigaMacs"),
        ("--max-size", "megabytes"),
        ("--max-latency", "milliseconds"),
    ],
)
def test_models_are_filtered_by_what_they_need(fovea: Fovea, option: str, field: str) -> None:
    everything = json.loads(fovea("models", "--output", "json").stdout)
    limit = sorted(model["figures"][field] for model in everything if field in model["figures"])[5]
    kept = json.loads(fovea("models", option, str(limit), "--output", "json").stdout)
    within = [model["name"] for model in everything if model["figures"].get(field, limit + 1) <= limit]
    assert [model["name"] for model in kept] == within
    assert 0 < len(within) < len(everything)
    assert not json.loads(fovea("models", "timm/resnet50", option, "1e9", "--output", "json").stdout)


def test_what_was_not_measured_of_a_model_is_told(fovea: Fovea, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(measured())
    del known["yolo"]
    monkeypatch.setattr(models, "measured", lambda: known)
    rows = {line.split()[0]: line.split() for line in fovea("models").stdout.splitlines()}
    assert rows["yolo"][7:9] == ["-", "-"]
    assert float(rows["ssd"][8]) == pytest.approx(known["ssd"].milliseconds, rel=0.01)
    done = fovea("models", "--max-latency", "1e9")
    assert "yolo " not in done.stdout
    assert f"one core of {known['ssd'].machine}" in done.stderr


def test_models_are_filtered_by_task_licence_and_packaged_weights(fovea: Fovea) -> None:
    def names(*options: str) -> set[str]:
        return {model["name"] for model in json.loads(fovea("models", *options, "--output", "json").stdout)}

    segmenters = {"unet", "unet-efficientnet-lite0", "deeplabv3", "deeplabv3plus"}
    assert names("--task", "SemanticSegmentation", "--licence", "mit") == segmenters
    assert names("--licence", "BSD-3-Clause") >= {"ssd", "ssdlite", "fcos", "retinanet", "fasterrcnn"}
    assert names("--packaged", "--task", "Classification") == {"efficientnet-lite0"}
    restricted = names("timm/convnextv2_atto", "--licence", "CC-BY-NC-4.0")
    assert "timm/convnextv2_atto" in restricted


def test_crds_prints_what_kubectl_applies(fovea: Fovea) -> None:
    printed = list(yaml.load_all(fovea("crds").stdout, yaml.CSafeLoader))
    kept = [yaml.load(file.read_text(), yaml.CSafeLoader) for file in sorted((ROOT / "crds").glob("*.yaml"))]
    assert sorted(printed, key=lambda it: it["metadata"]["name"]) == kept


def test_completion_completes(fovea: Fovea, tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(fovea("completion", "bash").stdout)
    checked = subprocess.run(["bash", "-c", f"source {script} && complete -p fovea"], capture_output=True, text=True)
    assert "_fovea_completion" in checked.stdout, checked.stderr
    assert fovea("completion", "tcsh").exit_code == 2


def test_logs_without_kubectl(fovea: Fovea, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = fovea("logs", "r-0123456789")
    assert done.exit_code == 1
    assert done.stderr == "fovea: kubectl is not installed (install it; it is asked for runs.fovea.dev/r-0123456789)\n"


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ('Error from server (NotFound): runs.fovea.dev "r-1" not found', 1, "kubectl get runs --all-namespaces"),
        ('error: the server doesn\'t have a resource type "runs"', 1, "resource type"),
        (
            "E1125 memcache.go\nThe connection to the server 127.0.0.1:1 was refused",
            75,
            "kubectl, asked for runs.fovea.dev/r-1: The connection",
        ),
    ],
)
def test_logs_of_a_run_that_kubectl_does_not_give(
    fovea: Fovea, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, code: int, told: str
) -> None:
    """A stand-in says what kubectl says; test_logs.py and tests/cluster read logs."""
    (tmp_path / "err").write_text(said)
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\ncat {tmp_path}/err >&2\nexit 1\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    done = fovea("logs", "r-1", "--namespace", "lab")
    assert done.exit_code == code
    assert told in done.stderr
    assert "memcache" not in done.output
