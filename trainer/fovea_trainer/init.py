"""`fovea init`: what a folder of labelled images is, and the manifest to start from, with comments."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from fovea_api.architectures import FIRST_CHOICE, Architecture, catalogue, find
from fovea_api.common import Metadata
from fovea_api.criteria import Criterion
from fovea_api.dataset import Recipe
from fovea_api.errors import InvalidInput, InvalidManifest
from fovea_api.metrics import PRIMARY
from fovea_api.names import API_VERSION
from fovea_api.presets import with_preset
from fovea_api.trainingjob import Recipe as TrainingRecipe
from pydantic import JsonValue, ValidationError

from fovea_trainer.data.build import CheckResult
from fovea_trainer.local import check_folder
from fovea_trainer.manifest import LOCAL_SOURCE
from fovea_trainer.training.fitting import long_enough

SOURCE = "folder"
"""What the source is called."""
FEW_IMAGES = 10
"""Of a class, on all splits together: fewer cannot be learned from and measured."""
SMALL_SET = 100
"""Images below which figures of a test split are rough."""
LINE = 110
"""Letters of the longest line of classes."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a folder holds, and the manifest to start from.

    Args:
        name: Name of the Dataset and of the TrainingJob.
        recipe: The Dataset's.
        checked: What a build would find.
        architecture: The one that is suggested.
        notes: Sentences on what a reader should know before the first training.
        manifest: YAML of both; empty where the build would be refused.
    """

    name: str
    recipe: Recipe
    checked: CheckResult
    architecture: Architecture
    notes: tuple[str, ...]
    manifest: str

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form, without the manifest's text."""
        (source,) = self.recipe.sources
        checked = self.checked
        return {
            "name": self.name,
            "format": str(source.format),
            "task": str(self.recipe.task),
            "splits": self.recipe.splits.method,
            "summary": None if checked.summary is None else checked.summary.to_dict(),
            "findings": [tally.to_dict() for tally in checked.findings],
            "refusal": None if checked.refusal is None else str(checked.refusal),
            "architecture": self.architecture.name,
            "notes": list(self.notes),
        }


def start_from(
    folder: Path,
    beside: Path,
    *,
    name: str | None = None,
    format_: str | None = None,
    task: str | None = None,
    classes: Sequence[str] = (),
    architecture: str | None = None,
    uri: str | None = None,
    workers: int = 1,
) -> Start:
    """Looks at a folder or archive of labelled images.

    Args:
        folder: The folder or archive.
        beside: Folder that the manifest will lie in; the path of the images is written relative to it.
        name: Name of the objects; absent: the folder's.
        format_: Name of a format; absent: the one that the files look like.
        task: Name of a task; absent: what the format is mostly used for.
        classes: The classes; absent: those that the labels name.
        architecture: Absent: the task's first choice.
        uri: Where a cluster will read the images; absent: a claim `datasets`.
        workers: Processes that read images.

    Raises:
        InvalidInput: the files look like no format, there is no such format, task or architecture, the architecture is
            of another task, or Kubernetes takes no such name.
    """
    name = name or object_name(folder)
    try:
        Metadata(name=name)
    except ValidationError as error:
        raise InvalidManifest.from_validation(error, "--name") from error
    recipe, checked = check_folder(folder, format_, task, classes, workers)
    network = find(architecture or FIRST_CHOICE[recipe.task])
    if network.task is not recipe.task:
        fitting = ", ".join(each.name for each in catalogue().values() if each.task is recipe.task)
        raise InvalidInput(
            f"{network.name} is for {network.task}, and the folder is read for {recipe.task}", "--architecture",
            f"use one of {fitting}, or say another --task",
        )  # fmt: skip
    start = Start(name, recipe, checked, network, tuple(_notes(checked)), "")
    if checked.summary is None:
        return start
    return replace(start, manifest=_manifest(start, folder, beside, uri or f"pvc://datasets/{name}"))


def object_name(folder: Path) -> str:
    """A name for Kubernetes that comes close to the folder's: lower case, at most 40 characters."""
    stem = folder.resolve().name.partition(".")[0]
    words = re.sub("[^a-z0-9]+", "-", stem.lower()).strip("-")[:40].strip("-")
    return words if words[:1].isalpha() else f"images-{words}".strip("-")


def _notes(checked: CheckResult) -> list[str]:
    """What no finding says: of few images, and of classes that are rare or alone."""
    summary, notes = checked.summary, list[str]()
    if summary is None:
        return notes
    if summary.images < SMALL_SET:
        notes.append(f"There are {summary.images} images: figures of the test split will be rough.")
    rare = [each for each in summary.classes if 0 < each.images < FEW_IMAGES]
    if rare:
        shown = ", ".join(f"{each.name} ({each.images})" for each in rare[:5]) + (", …" if len(rare) > 5 else "")
        notes.append(f"Classes in fewer than {FEW_IMAGES} images can hardly be learned: {shown}.")
    annotations = sorted(each.annotations for each in summary.classes if each.annotations)
    if len(annotations) > 1 and annotations[-1] > 20 * annotations[0]:
        notes.append(
            f"The most frequent class has {annotations[-1]:,} annotations, the rarest {annotations[0]:,}: consider "
            "input.balance."
        )
    return notes


def _manifest(start: Start, folder: Path, beside: Path, place: str) -> str:
    summary, recipe = start.checked.summary, start.recipe
    assert summary is not None
    (source,) = recipe.sources
    counts = ", ".join(f"{count:,} {split}" for split, count in summary.splits.items())
    classes = [each.name for each in summary.classes]
    network, task = start.architecture, recipe.task
    here = _relative(folder.absolute(), beside.absolute())
    goal = Criterion(metric=f"test/{PRIMARY[task]}", min=0.9)
    pushed, why = (str(folder), "") if folder.is_dir() else ("FOLDER", f"     (into which {folder.name} is unpacked)")
    others = ", ".join(each.name for each in catalogue().values() if each.task is task and each.name != network.name)
    return f"""\
# {summary.images:,} images with {summary.annotations:,} annotations of {len(classes)} classes, read as {source.format}.
#   by hand:    fovea train -f THIS_FILE
#   a cluster:  fovea push {shlex.quote(pushed)} {shlex.quote(place)}{why}
#               kubectl apply -f THIS_FILE
# Every field: docs/reference, or kubectl explain dataset.spec
apiVersion: {API_VERSION}
kind: Dataset
metadata:
  name: {start.name}
  annotations:
    {LOCAL_SOURCE}{SOURCE}: {_text(here)}     # where the images lie in a run by hand, beside this file
spec:
  task: {task}
  problem:
    statement: ""     # what is to be predicted, in one sentence; stands on every report
    outcome: ""       # what counts as success for those who asked
  sources:
  - name: {SOURCE}
    uri: {_text(place)}     # where the cluster reads them
    format: {source.format}
{_listed(classes)}
  splits:                        # {counts}
{_splits(recipe)}
  # quality: {{nearDuplicates: Drop}}     # of copies of one picture, one is kept
---
apiVersion: {API_VERSION}
kind: TrainingJob
metadata:
  name: {start.name}
spec:
  datasetRef: {{name: {start.name}}}
  model:
    architecture: {network.name}{f"     # or {others}; `fovea models`" if others else ""}
{_usual(network, summary.splits.get("train", 0))}
  # successCriteria:     # a model that misses one is never served
  # - {{metric: {goal.metric}, min: {goal.min}}}
  # compute:             # for a cluster with GPUs
  #   resources: {{limits: {{nvidia.com/gpu: "1"}}}}
"""


def _usual(network: Architecture, images: int) -> str:
    """What the architecture's preset comes to for a train split of so many images, as comments."""
    recipe = with_preset(TrainingRecipe.model_validate({"model": {"architecture": network.name}}))
    training, sizing = long_enough(recipe.training, images), recipe.input.sizing
    lines = [
        "# What is left out, the architecture's preset fills in. For these images that is, to begin changes from:",
        f"# training: {{epochs: {training.epochs}, batchSize: {training.batch_size}, "
        f"optimizer: {{learningRate: {training.optimizer.learning_rate:g}}}}}",
    ]
    if sizing is not None:
        sides = f"{sizing.longer_side} pixels on the longer side"
        if sizing.object_pixels:
            sides += f", up to {sizing.largest} where objects are small"
        side = sizing.longer_side
        lines.append(f"# input: {{size: {{width: {side}, height: {side}}}}}     # left out: {sides}")
    return "\n".join(f"  {line}" for line in lines)


def _listed(classes: Sequence[str]) -> str:
    """The field `classes`: in a line where they fit."""
    why = "     # the order fixes the index of each class"
    line = f"  classes: [{', '.join(map(_text, classes))}]{why}"
    if len(line) <= LINE:
        return line
    return "\n".join([f"  classes:{why}", *(f"  - {_text(name)}" for name in classes)])


def _splits(recipe: Recipe) -> str:
    splits = recipe.splits
    if splits.method == "FromSource":
        carved = splits.validation_from_train
        rest = [f"    validationFromTrain: {carved}     # the source has no validation split"] if carved else []
        return "\n".join(["    method: FromSource     # as folders or lists of the source say", *rest])
    ratios = splits.ratios
    shares = f"{{train: {ratios.train}, validation: {ratios.validation}, test: {ratios.test}}}"
    groups = "    # groupBy: {pattern: '^(?P<group>[^_]+)_'}     # a patient's images stay in one split"
    return f"    ratios: {shares}\n{groups}"


def _text(value: str) -> str:
    """A string as YAML writes it in a line; quoted only where it must be."""
    plain = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10_000).strip()[1:-1]
    return plain if yaml.safe_load(f"[{plain}]") == [value] else json.dumps(value)


def _relative(folder: Path, beside: Path) -> str:
    """The path of the images from the manifest's folder, where they lie below it; else the whole path."""
    return folder.relative_to(beside).as_posix() or "." if folder.is_relative_to(beside) else str(folder)
