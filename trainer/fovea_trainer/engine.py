"""The work of an EngineBuild run: the TensorRT engine of a bundle's model, for the GPU of the node that it runs on.

The store has an engine under what it is for, its key. One that is there is taken, whoever built it, so a build that is
repeated costs no more than the look.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import yaml
from fovea_api.engine import ENGINES, MANIFEST, PLAN, EngineKey, EngineManifest
from fovea_api.errors import CorruptData
from fovea_api.run import Progress, RunResult, RunSpec, digest_of
from fovea_serving.bundle import Bundle, file_digest
from fovea_serving.engines import gpu, model_digest, read_engine
from fovea_store import StorePath

from fovea_trainer.bundles import fetch_input
from fovea_trainer.export import check_golden
from fovea_trainer.export.exporters.tensorrt import BATCHES, build_plan, installed_version
from fovea_trainer.results import owner_folder

log = logging.getLogger(__name__)


def build_engine(spec: RunSpec, work_dir: Path, report: Callable[[Progress], None]) -> RunResult:
    """The engine of the bundle that is the run's input, from the store or built and stored there.

    Args:
        spec: That of an EngineBuild.
        work_dir: For the bundle and the engine.
        report: Told how far it is.

    Raises:
        NotSupported, NoGpu: the image has no TensorRT, the node no GPU.
        ExportError: TensorRT cannot build it.
        ParityError: it does not answer as the bundle states.
    """
    assert spec.inputs.bundle is not None
    version, device = installed_version(), gpu()
    report(Progress(stage="Reading", percent=0, message=f"TensorRT {version} on {device.name}"))
    bundle = fetch_input(spec.inputs.bundle, work_dir / "bundle")
    key = EngineKey(model=model_digest(bundle.model), tensorrt=version, compute_capability=device.compute_capability)
    target = owner_folder(spec.store, spec.owner) / ENGINES / key.folder
    manifest = _stored(target)
    if manifest is not None:
        log.info("the store has the engine of this key, which is taken: %s", target)
    else:
        report(Progress(stage="Building", percent=10, message="TensorRT tries kernels on the GPU; this takes minutes"))
        manifest = _build(bundle, key, device.name, work_dir / "engine", target)
        log.info("engine: %s", target)
    report(Progress(stage="Done", percent=100))
    return RunResult(
        completed_at=datetime.now(UTC),
        artifact=str(target),
        digest=digest_of(manifest.to_dict()),
        engine=manifest.summary(),
    )


def _stored(target: StorePath) -> EngineManifest | None:
    """The engine of a key, where it is whole."""
    try:
        manifest = read_engine(target)
    except CorruptData as error:
        log.warning("%s; it is built anew", error)
        return None
    plan = target / PLAN
    return manifest if manifest is not None and plan.is_file() and plan.size() == manifest.bytes else None


def _build(bundle: Bundle, key: EngineKey, device: str, folder: Path, target: StorePath) -> EngineManifest:
    """Builds an engine, holds it against the bundle and stores it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plan = folder / PLAN
    plan.write_bytes(build_plan(bundle.model))
    log.info("%s", check_golden(bundle, plan))
    manifest = EngineManifest(
        **dict(key),
        gpu=device[:128],
        max_batch=BATCHES[-1],
        bytes=plan.stat().st_size,
        sha256=file_digest(plan),
        created_at=datetime.now(UTC),
    )
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest.to_dict(), sort_keys=False))
    target.upload_tree(folder, last=MANIFEST)
    return manifest
