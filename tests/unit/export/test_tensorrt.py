"""TensorRT engines, from an ONNX file to the store.

NVIDIA's package and a GPU cannot be had here, so TensorRT itself is a double: an engine of it is the ONNX file that was
parsed. What is asked of it was held against the bindings of TensorRT 11.2; that it builds is tested nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import yaml
from fovea_api.common import Task
from fovea_api.engine import MANIFEST, PLAN
from fovea_api.errors import NotSupported
from fovea_api.run import BundleInput, CleanupRecipe, Progress, RunInputs, RunOwner, RunSpec, RunType, run_identity
from fovea_serving.bundle import Bundle, load_bundle
from fovea_serving.engines import Gpu, NoGpu, engines_beside, model_digest
from fovea_serving.pipeline.golden import ANSWERS, golden_image, golden_numbers
from fovea_serving.predictor import Predictor
from fovea_store import StorePath
from fovea_trainer import engine, use
from fovea_trainer.cleanup import clean_up
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.export import ExportError, ParityError, check_golden
from fovea_trainer.export.exporters import tensorrt
from fovea_trainer.run import execute, failure

from tests.unit.serving.conftest import write_bundle, write_model

OWNER = RunOwner(kind="TrainingJob", name="colours")


class Double:
    """What Fovea uses of the package `tensorrt`, and what it was asked to do."""

    __version__ = "10.13.3.9"

    def __init__(self, *, errors: tuple[str, ...] = (), says: str = "", builds: bool = True) -> None:
        self.asked: dict[str, Any] = {"builds": 0}
        self.errors, self.says, self.builds = errors, says, builds
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)
        self.ILogger = type("ILogger", (), {"Severity": severity, "__init__": lambda self: None})

    def Builder(self, logger: Any) -> Any:
        if self.says:
            logger.log(self.ILogger.Severity.ERROR, self.says)
            if self.builds:  # the bindings' answer to a null pointer
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(flags: int) -> Any:
            self.asked["flags"] = flags
            return SimpleNamespace(get_input=lambda index: self.asked["image"])

        def build_serialized_network(network: Any, config: Any) -> bytes | None:
            self.asked["builds"] += 1
            return self.asked["file"] if self.builds else None

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: SimpleNamespace(add_optimization_profile=lambda profile: None),
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda *shapes: self.asked.update(profile=shapes)
            ),
            build_serialized_network=build_serialized_network,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        def parse_from_file(path: str) -> bool:
            self.asked["file"] = Path(path).read_bytes()
            dimensions = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
            self.asked["image"] = SimpleNamespace(shape=[each.dim_value or -1 for each in dimensions])
            return not self.errors

        texts = [SimpleNamespace(desc=lambda text=text: text) for text in self.errors]
        return SimpleNamespace(
            parse_from_file=parse_from_file, num_errors=len(texts), get_error=lambda index: texts[index]
        )


Install = Callable[..., Double]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Makes this a machine with a GPU and TensorRT, as far as the double goes."""

    def install(**behaviour: Any) -> Double:
        double = Double(**behaviour)
        monkeypatch.setitem(sys.modules, "tensorrt", double)  # type: ignore[arg-type]
        for module in (tensorrt, engine):
            monkeypatch.setattr(module, "gpu", lambda: Gpu("NVIDIA H100", "9.0"))
        monkeypatch.setattr(tensorrt, "tensorrt_version", lambda library: f"10.13.3.{library.rpartition('.')[2]}")
        for module in (engine, use):
            monkeypatch.setattr(module, "check_golden", lambda bundle, plan: check_golden(bundle, as_onnx(plan)))
        return double

    def as_onnx(plan: Path) -> Path:
        file = tmp_path / "plan.onnx"
        file.write_bytes(plan.read_bytes())
        return file

    return install


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a bundle that states the answer of its model."""

    def write(folder: Path) -> None:
        write_model(folder / "model.onnx")
        (folder / ANSWERS).write_text(f'{{"FP32": {answers(write_bundle(tmp_path, one_file, Task.CLASSIFICATION))}}}')

    def one_file(folder: Path) -> None:
        write_model(folder / "model.onnx")

    bundles = tmp_path / "store/trainingjob/colours/bundles"
    bundles.mkdir(parents=True)
    write_bundle(bundles, write, Task.CLASSIFICATION)
    return tmp_path / "store"


def answers(folder: Path) -> list[float]:
    (answer,) = Predictor.from_bundle(load_bundle(folder)).predict([golden_image()], candidates=True)
    return [float(number) for number in golden_numbers(answer)]


def bundle_in(store: Path) -> Bundle:
    (folder,) = (store / "trainingjob/colours/bundles").iterdir()
    return load_bundle(folder)


def build(store: Path, work_dir: Path) -> Any:
    """The result of a run, as its pod makes it; the store is the run's owner's."""
    bundle = bundle_in(store)
    inputs = RunInputs(bundle=BundleInput(digest=bundle.digest, artifact=str(bundle.path)))
    identity = run_identity(RunType.ENGINE_BUILD, OWNER, None, inputs)
    spec = RunSpec(
        type=RunType.ENGINE_BUILD, owner=OWNER, identity=identity, recipe={}, inputs=inputs, store=str(store)
    )
    reporter = SimpleNamespace(report=lambda progress: assert_progress(progress))
    return execute(spec, RunEnvironment("r-0123456789", 1, work_dir, ray=False), reporter)  # type: ignore[arg-type]


def assert_progress(progress: Progress) -> None:
    assert progress.stage in ("Reading", "Building", "Done")


@pytest.mark.parametrize(("batch", "profile"), [("batch", (1, 8, 32)), (2, None)])
def test_an_engine_takes_the_batches_that_the_model_does(
    install: Install, tmp_path: Path, batch: int | str, profile: tuple[int, ...] | None
) -> None:
    double = install()
    write_model(tmp_path / "model.onnx", batch)
    assert tensorrt.build_plan(tmp_path / "model.onnx") == (tmp_path / "model.onnx").read_bytes()
    assert double.asked["flags"] == 0b10, "strongly typed: the 8-bit layers are those of the file"
    shapes = tuple((count, 3, 24, 32) for count in profile) if profile is not None else None
    assert double.asked.get("profile") == (("image", *shapes) if shapes is not None else None)


def test_what_tensorrt_says_is_said(install: Install, tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    for behaviour, words in (
        ({"errors": ("node 3: Mod of int64 is not supported",)}, "cannot read the model: node 3: Mod of int64"),
        ({"says": "CUDA initialization failure with error: 35"}, "cannot work here: CUDA initialization failure"),
        ({"says": "no tactic for node 3", "builds": False}, "builds no engine: no tactic for node 3"),
    ):
        install(**behaviour)
        with pytest.raises(ExportError, match=words):
            tensorrt.build_plan(tmp_path / "model.onnx")


def test_without_tensorrt_or_a_gpu_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match=r"not installed.*images/tensorrt"):
        tensorrt.build_plan(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "tensorrt", Double())  # type: ignore[arg-type]
    with pytest.raises(NoGpu, match=r"no driver.*nvidia.com/gpu"):
        tensorrt.build_plan(tmp_path / "model.onnx")


def test_a_run_leaves_its_engine_where_a_deployment_looks_for_it(install: Install, store: Path, tmp_path: Path) -> None:
    install()
    result, bundle = build(store, tmp_path / "work"), bundle_in(store)
    key = f"{model_digest(bundle.model)}/tensorrt-10.13.3.10-sm90"
    assert result.artifact == str(engines_beside(f"{bundle.path}/") / key)
    assert (Path(result.artifact) / PLAN).read_bytes() == bundle.model.read_bytes()
    assert (result.engine.gpu, result.engine.max_batch) == ("NVIDIA H100", 32)
    assert result.engine.bytes == bundle.model.stat().st_size


def test_an_engine_that_exists_under_its_key_is_not_built_again(install: Install, store: Path, tmp_path: Path) -> None:
    double = install()
    first = build(store, tmp_path / "work")
    again = build(store, tmp_path / "elsewhere")
    assert (double.asked["builds"], again.digest, again.engine) == (1, first.digest, first.engine)
    (Path(first.artifact) / PLAN).write_bytes(b"half")
    build(store, tmp_path / "work")
    assert double.asked["builds"] == 2, "one that was cut off is built anew"
    (Path(first.artifact) / MANIFEST).write_text("gpu: 1")
    build(store, tmp_path / "work")
    assert double.asked["builds"] == 3
    assert yaml.safe_load((Path(first.artifact) / MANIFEST).read_text())["tensorrt"] == "10.13.3.10"


def test_an_engine_that_answers_otherwise_is_not_kept(
    install: Install, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    other = tmp_path / "other.onnx"
    write_model(other)
    model = onnx.load(str(other))
    model.graph.node[0].op_type = "ReduceSum"
    monkeypatch.setattr(engine, "build_plan", lambda onnx: model.SerializeToString())
    with pytest.raises(ParityError, match="scores of the golden image differ") as caught:
        build(store, tmp_path / "work")
    assert not (store / "trainingjob/colours/engines").exists()
    reported = failure(caught.value).error
    assert reported is not None
    assert (reported.reason, reported.retryable) == ("ParityError", False)


def test_a_cleanup_deletes_what_makes_an_engine_whole_first(
    install: Install, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    made = Path(build(store, tmp_path / "work").artifact)
    deleted: list[str] = []
    delete = StorePath.delete
    monkeypatch.setattr(StorePath, "delete", lambda path: deleted.append(str(path)) or delete(path))  # type: ignore[func-returns-value]
    clean_up(OWNER, str(store), CleanupRecipe(), lambda _: None)
    assert deleted.index(str(made / MANIFEST)) < deleted.index(str(store / "trainingjob/colours"))
    assert not made.exists()
