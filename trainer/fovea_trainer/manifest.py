"""The manifest of a run by hand: the Dataset and TrainingJob of a file, with sources where they lie on this machine.

All that is wrong with the file is reported at once, with the names that may have been meant.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from fovea_api.common import Model
from fovea_api.dataset import Dataset
from fovea_api.errors import InvalidInput, InvalidManifest, problems
from fovea_api.modeldeployment import ModelDeployment
from fovea_api.names import GROUP
from fovea_api.trainingjob import TrainingJob
from fovea_api.tuningsweep import TuningSweep
from fovea_store.filesystems import split_uri
from pydantic import JsonValue, ValidationError

LOCAL_SOURCE = "local.fovea.dev/"
"""Annotation of a Dataset: with a source's name behind it, where that source lies in a local run (relative to the
manifest). Kubernetes ignores it; so one manifest works on a cluster and by hand."""
LocalKind = Dataset | TrainingJob | TuningSweep | ModelDeployment
KINDS: Mapping[str, type[LocalKind]] = {
    "Dataset": Dataset,
    "TrainingJob": TrainingJob,
    "TuningSweep": TuningSweep,
    "ModelDeployment": ModelDeployment,
}
"""What a run by hand reads; other kinds may stand beside."""
POWER_OF_TEN = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+")
"""A number such as 1e-4, which YAML 1.1 takes for a text: it wants 1.0e-4."""
OTHER_KINDS = ("Run",)

Object = TypeVar("Object", Dataset, TrainingJob, TuningSweep, ModelDeployment)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A file of manifests."""

    path: Path
    objects: tuple[LocalKind, ...]

    @classmethod
    def read(
        cls,
        path: Path,
        kind_set: type[LocalKind] | None = None,
        settings: Sequence[str] = (),
        name: str | None = None,
    ) -> Manifest:
        """Reads a file.

        Args:
            path: The file.
            kind_set: The kind whose objects `settings` change; only the one of `name`, where that is given.
            settings: `FIELD=VALUE`: a field below `spec`, and its value as YAML writes it.
            name: See `kind_set`.

        Raises:
            InvalidManifest: names all that is wrong with it.
            InvalidInput: a setting is no `FIELD=VALUE`, or leads through a field that has no fields.
        """
        objects: list[LocalKind] = []
        wrong: list[str] = []
        for document in _documents(path):
            kind = document.get("kind")
            if kind_set is not None and kind == kind_set.__name__ and name in (None, _name_of(document)):
                document = apply_settings(document, settings)
            try:
                if kind in KINDS:
                    objects.append(KINDS[str(kind)].model_validate(document))
                else:
                    wrong.extend(_kind_problems(document))
            except ValidationError as error:
                where = f"{kind} {_name_of(document)}"
                wrong.extend(f"{where}: {field}: {text}" for field, text in problems(error, KINDS[str(kind)]))
        for item in objects:
            wrong.extend(_annotation_problems(item))
        if wrong:
            raise InvalidManifest("\n".join(wrong), str(path))
        return cls(path, tuple(objects))

    def of(self, kind: type[Object]) -> list[Object]:
        """The objects of a kind."""
        return [item for item in self.objects if isinstance(item, kind)]

    def find(self, kind: type[Object], name: str | None) -> Object:
        """The object of a kind and, where there are several, of a name. Raises InvalidManifest."""
        candidates = self.of(kind)
        chosen = [item for item in candidates if name is None or item.metadata.name == name]
        if len(chosen) == 1:
            return chosen[0]
        names = ", ".join(item.metadata.name for item in candidates) or "none"
        described = kind.__name__ if name is None else f"{kind.__name__} {name!r}"
        if chosen:
            remedy = "say which by its name"
        elif candidates:
            remedy = "name one that the file has, or write that one into it"
        else:
            remedy = "write both into one file, divided by ---"
        raise InvalidManifest(f"exactly one {described} is needed; the file has {names}", str(self.path), remedy)

    def local(self, dataset: Dataset, given: Mapping[str, str]) -> Dataset:
        """The Dataset with its sources where they lie on this machine.

        Args:
            dataset: One of the file's.
            given: Where sources lie, by their name; goes before the Dataset's annotations.
        """
        known = {source.name for source in dataset.spec.sources}
        for name in given:
            if name not in known:
                raise InvalidInput(f"there is no source {name!r}{_meant(name, known)}", "--source",
                                   f"the Dataset has {', '.join(sorted(known))}")  # fmt: skip
        sources = []
        for source in dataset.spec.sources:
            annotated = dataset.metadata.annotations.get(LOCAL_SOURCE + source.name)
            place = given.get(source.name)
            if place is None and (written := annotated or source.location) is not None:
                place = self.beside(written)
            sources.append(source if place is None else source.at(_uri(place)))
        changed: dict[str, object] = {"sources": tuple(sources)}
        if (exclude := dataset.spec.exclude) is not None:
            changed["exclude"] = exclude.model_copy(update={"uri": _uri(self.beside(exclude.uri))})
        if (prelabel := dataset.spec.prelabel) is not None and (export := prelabel.export) is not None:
            beside = export.model_copy(update={"uri": _uri(self.beside(export.uri))})
            changed["prelabel"] = prelabel.model_copy(update={"export": beside})
        return dataset.model_copy(update={"spec": dataset.spec.model_copy(update=changed)})

    def beside(self, place: str) -> str:
        """A path that is relative to the manifest, as one of this machine."""
        return place if split_uri(place)[0] else os.path.normpath(self.path.absolute().parent / place)


def apply_settings(document: Mapping[str, JsonValue], settings: Sequence[str]) -> dict[str, JsonValue]:
    """A manifest with other values. Raises InvalidInput; see `Manifest.read`."""
    changed = dict(document)
    for setting in settings:
        path, divider, text = setting.partition("=")
        names = path.removeprefix("spec.").split(".")
        if not divider or not all(names):
            raise InvalidInput(f"{setting!r} is not FIELD=VALUE", "--set", "such as training.epochs=20")
        try:
            value: JsonValue = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidInput(f"the value of {path} is no YAML", "--set", str(error)) from error
        if isinstance(value, str) and POWER_OF_TEN.fullmatch(value):
            value = float(value)
        changed["spec"] = _with(changed.get("spec"), names, value, "spec")
    return changed


def _with(block: JsonValue, names: Sequence[str], value: JsonValue, place: str) -> JsonValue:
    """A mapping with another value at a path; mappings on the way that are absent are made."""
    if not names:
        return value
    if block is not None and not isinstance(block, dict):
        raise InvalidInput(f"{place} has no field {names[0]!r}", "--set", f"set all of {place} to a value in YAML")
    known = block or {}
    return {**known, names[0]: _with(known.get(names[0]), names[1:], value, f"{place}.{names[0]}")}


def _name_of(document: Mapping[str, JsonValue]) -> JsonValue:
    metadata = document.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None


def _uri(place: str) -> str:
    return place if split_uri(place)[0] else f"file://{Path(place).absolute()}"


def _documents(path: Path) -> list[dict[str, JsonValue]]:
    try:
        loaded = list(yaml.safe_load_all(path.read_text("utf-8-sig")))
    except OSError as error:
        raise InvalidManifest(f"the file cannot be read: {error.strerror}", str(path)) from error
    except UnicodeDecodeError as error:
        raise InvalidManifest("the file is not UTF-8 text", str(path), "save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidManifest(f"the file is no YAML: {error}", str(path)) from error
    return [document for document in loaded if isinstance(document, dict)]


def _kind_problems(document: Mapping[str, JsonValue]) -> Iterator[str]:
    """A kind of Fovea's group that it does not have; other programs' kinds may stand in the file."""
    kind, group = str(document.get("kind")), str(document.get("apiVersion")).partition("/")[0]
    every = (*KINDS, *OTHER_KINDS)
    if kind not in every and (group == GROUP or difflib.get_close_matches(kind, every, 1, 0.8)):
        yield f"there is no kind {kind}{_meant(kind, every)}"


def _annotation_problems(item: Model) -> Iterator[str]:
    """Annotations that were meant to say where a source lies, and name none."""
    if not isinstance(item, Dataset):
        return
    expected = [LOCAL_SOURCE + source.name for source in item.spec.sources]
    for key in item.metadata.annotations:
        near = difflib.SequenceMatcher(None, key.rpartition("/")[0], LOCAL_SOURCE[:-1]).ratio() > 0.75
        if key not in expected and (near or key.startswith(LOCAL_SOURCE)):
            where = f"Dataset {item.metadata.name}: metadata.annotations[{key}]"
            yield f"{where}: there is no such source{_meant(key, expected) or f'; the annotation is {expected[0]}'}"


def _meant(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""
