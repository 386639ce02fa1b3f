"""What the kinds share: the base model with its rules, scalars with bounds, references, pods, run policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    ModelWrapValidatorHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fovea_api.names import GROUP

# --- Rules ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Detail:
    """What a message adds that depends on the object: a number that would be right.

    Args:
        template: Words with a `%d` in them.
        cel: The number, as an expression over `self`.
        number: The same in Python.
    """

    template: str
    cel: str
    number: Callable[[Any], int]


@dataclass(frozen=True, slots=True)
class Rule:
    """A cross-field rule, stated twice side by side: in CEL for the API server and in Python for a local run.

    Args:
        cel: Expression over `self` (and `oldSelf`) that must be true.
        message: What is wrong and what to change.
        check: The same in Python; None where only the API server can know (transitions, cluster-only rules).
        field: Path of the field to blame below the object that carries the rule, such as `.ratios.train`.
        detail: What follows the message, after a semicolon.
    """

    cel: str
    message: str
    check: Callable[[Any], bool] | None = None
    field: str = ""
    detail: Detail | None = None

    def words(self, value: object) -> str:
        """The message about an object that breaks the rule."""
        return (
            self.message
            if self.detail is None
            else f"{self.message}; {self.detail.template}" % self.detail.number(value)
        )

    def schema(self) -> dict[str, JsonValue]:
        """The entry of `x-kubernetes-validations`."""
        entry: dict[str, JsonValue] = {"rule": self.cel, "message": self.message}
        if self.detail is not None:
            entry["messageExpression"] = f"'{self.message}; {self.detail.template}'.format([{self.detail.cel}])"
        return entry | ({"fieldPath": self.field} if self.field else {})


class Model(BaseModel):
    """Base of all API types: frozen, camelCase on the wire, no unknown fields, rules checked when made."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    exactly_one: ClassVar[tuple[str, ...]] = ()
    """Names (snake_case) of sibling blocks of which exactly one is given: a union, the Kubernetes way."""
    incidental: ClassVar[tuple[str, ...]] = ()
    """Names (snake_case) of fields of a recipe that change no result, so that they are no part of an identity."""

    def effective(self) -> Self:
        """The same without what changes no result in the company of the other fields."""
        return self

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule for rule in self.all_rules() if rule.check is not None and not rule.check(self)]
        if broken:
            first, *others = broken
            message = "; ".join((first.words(self), *(f"{rule.field} {rule.words(self)}".lstrip() for rule in others)))
            raise PydanticCustomError("rule", "{message}", {"message": message, "field": first.field})
        return self

    @classmethod
    def all_rules(cls) -> tuple[Rule, ...]:
        """The rules of the class and its bases, with the one that `exactly_one` stands for first."""
        inherited = [rule for base in reversed(cls.__mro__) for rule in vars(base).get("rules", ())]
        return (*([choice_rule(cls.exactly_one)] if cls.exactly_one else []), *inherited)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        result = handler(schema)
        if rules := cls.all_rules():
            handler.resolve_ref_schema(result)["x-kubernetes-validations"] = [rule.schema() for rule in rules]
        return result

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form with all defaults spelled out and absent fields left out."""
        return self.model_dump(mode="json", exclude_none=True)


def choice_rule(fields: tuple[str, ...], at_least: int = 1) -> Rule:
    """The rule that exactly one (or, with at_least=0, at most one) of the fields is given."""
    names = [to_camel(field.rstrip("_")) for field in fields]
    given = ", ".join(f"has(self.{name})" for name in names)
    return Rule(
        f"[{given}].filter(given, given).size() {'==' if at_least else '<='} 1",
        f"give {'exactly' if at_least else 'at most'} one of {', '.join(names)}",
        lambda model: at_least <= sum(getattr(model, field) is not None for field in fields) <= 1,
    )


# --- Fields whose absence an architecture's preset fills -------------------------------------------------

PRESET = "x-fovea-preset"
"""Marks the JSON schema of a field that is `ByPreset`: the API server must fill in nothing."""


@dataclass(frozen=True, slots=True)
class ByPreset:
    """Marks a field of a `PresetModel` that has no default of its own: where a manifest is silent about it, the preset
    of the architecture decides. The default in Python is what silence meant before there were presets; frozen recipes
    of that time rest on it."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {PRESET: True}


class PresetModel(Model):
    """A block of a recipe with fields that are `ByPreset`. One that was not given is silent, and stays so: it is not
    written out, and so it is not given either where what was written is read again."""

    def silent(self) -> frozenset[str]:
        """Names (snake_case) of the fields that the preset is to fill."""
        return self.by_preset() - self.model_fields_set

    @classmethod
    def by_preset(cls) -> frozenset[str]:
        """Names (snake_case) of the fields that a preset may fill."""
        fields = cls.model_fields.items()
        return frozenset(name for name, field in fields if any(isinstance(each, ByPreset) for each in field.metadata))

    @model_serializer(mode="wrap")
    def _without_what_is_silent(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        for name in self.silent() if info.context is None else ():
            written.pop(name, None)
            written.pop(type(self).model_fields[name].alias or name, None)
        return written


def frozen_form(model: Model) -> dict[str, JsonValue]:
    """The JSON form of a recipe that is silent about nothing: what no preset fills is as it was without presets."""
    return model.model_dump(mode="json", exclude_none=True, context="frozen")


def silent_paths(model: Model, path: str = "") -> Iterator[str]:
    """The paths, such as `training.optimizer.name`, of all silent fields of a model and its blocks."""
    silent = model.silent() if isinstance(model, PresetModel) else frozenset()
    for name, field in type(model).model_fields.items():
        at = f"{path}.{field.alias or name}".lstrip(".")
        value = getattr(model, name)
        if name in silent:
            yield at
        elif isinstance(value, Model):
            yield from silent_paths(value, at)


# --- Markers: a constraint of Kubernetes that pydantic has no word for ----------------------------------


@dataclass(frozen=True, slots=True)
class ListMap:
    """A list whose items are identified by keys: unique, and merged item by item by server-side apply."""

    keys: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._unique, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": list(self.keys),
        }

    def _unique(self, items: tuple[Model, ...]) -> tuple[Model, ...]:
        by_alias = {field.alias: name for name, field in type(items[0]).model_fields.items()} if items else {}
        _refuse_duplicates([tuple(getattr(item, by_alias[key]) for key in self.keys) for item in items])
        return items


@dataclass(frozen=True, slots=True)
class Set:
    """A list of different scalars, merged as a set by server-side apply."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._unique, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"x-kubernetes-list-type": "set"}

    def _unique(self, items: tuple[object, ...]) -> tuple[object, ...]:
        _refuse_duplicates([(item,) for item in items])
        return items


def _refuse_duplicates(keys: list[tuple[object, ...]]) -> None:
    for index, key in enumerate(keys):
        if key in keys[:index]:
            name = ", ".join(map(str, key))
            raise PydanticCustomError("duplicate", "Duplicate value: {name}", {"name": name, "field": f"[{index}]"})


# --- Scalars --------------------------------------------------------------------------------------------

Int = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Fraction = Annotated[Number, Field(ge=0, le=1)]
"""0 to 1, both included."""
Percent = Annotated[Number, Field(ge=0, le=100)]

LABEL_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
Label = Annotated[str, Field(min_length=1, max_length=63, pattern=LABEL_PATTERN)]
"""DNS-1035 label: lower-case letters, digits and '-', starting with a letter."""
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern="^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
"""Name of a Kubernetes object of any kind."""
Word = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=2048)]
Uri = Annotated[str, Field(max_length=2048, pattern=r"^(((file|pvc|s3|gs)://|[.][.]?/)[^\r\n]+|https://[^ \r\n]+)$")]
"""pvc://claim/path, s3://bucket/path, gs://bucket/path, https://…; in local runs also file:///path and ./path, which is
relative to the manifest. All signs behind the scheme are part of the path, as they are."""


BundleUri = Annotated[str, Field(max_length=2048, pattern=r"^(((file|pvc|s3|gs|oci)://|[.][.]?/)[^\r\n]+)$")]
"""As a Uri, of a model bundle: oci://registry/repository:tag or oci://registry/repository@sha256:… too."""


def not_downloaded(field: str) -> tuple[Rule, ...]:
    """The rules of a URI that is read as it is, from a store: only a source is fetched from a web server."""
    return (
        Rule(
            f"!has(self.{field}) || !self.{field}.startsWith('https://')",
            "nothing is downloaded here; copy it to a store and give pvc://, s3:// or gs://",
            lambda obj: not (getattr(obj, field) or "").startswith("https://"),
            f".{field}",
        ),
        Rule(
            f"!has(self.{field}) || !(self.{field}.startsWith('file://') || self.{field}.startsWith('.'))",
            "file:// and ./ work in local runs only; on a cluster use pvc://, s3:// or gs://",
            field=f".{field}",
        ),
    )


DIGEST = "sha256-[0-9a-f]{64}"
"""Pattern of the name that a content digest gives: a dataset version, a bundle."""
Digest = Annotated[str, Field(max_length=71, pattern=f"^{DIGEST}$")]
Sha256 = Annotated[str, Field(max_length=64, pattern="^[0-9a-f]{64}$")]
MAX_CLASS_NAME = 128
"""Characters of a class's name."""
ClassName = Annotated[str, Field(min_length=1, max_length=MAX_CLASS_NAME)]
RunName = Annotated[str, Field(max_length=63, pattern="^r-[0-9a-f]{6,40}$")]
Cron = Annotated[str, Field(max_length=128, pattern="^[^ ]+( +[^ ]+){4}$|^@(hourly|daily|weekly|monthly|yearly)$")]
"""Minute, hour, day of month, month, day of week."""
TimeZone = Annotated[str, Field(max_length=64, pattern="^[A-Za-z0-9_+/-]+$")]
Time = datetime
Metrics = Annotated[Mapping[Word, Number], Field(max_length=4096)]
"""Metric values by name, `<split>/<metric>`."""

_DURATION = re.compile(r"^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$")
_MAX_HOURS = 87600
_TOO_LONG = f"a duration is at most {_MAX_HOURS}h (ten years); lower it"


def parse_duration(text: str) -> timedelta:
    """Reads `12h`, `10m`, `1h30m`, `3m10s`. Raises ValueError for anything else and for more than ten years."""
    match = _DURATION.match(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration; write hours, minutes and seconds, such as 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if 3600 * hours + 60 * minutes + seconds > 3600 * _MAX_HOURS:
        raise ValueError(_TOO_LONG)
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


class _Bounded:
    """A duration that every clock can add to a time, and Kubernetes write as seconds."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._parsed, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        rule = Rule(f"duration(self) <= duration('{_MAX_HOURS}h')", _TOO_LONG)
        return handler(schema) | {"x-kubernetes-validations": [rule.schema()]}

    def _parsed(self, text: str) -> str:
        parse_duration(text)
        return text


Duration = Annotated[str, Field(min_length=2, max_length=20, pattern="^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"), _Bounded()]
"""Hours, minutes and seconds, such as 12h or 1h30m; at most ten years."""


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads back, in whole seconds: `3m10s`."""
    seconds = round(duration.total_seconds())
    parts = ((seconds // 3600, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s"))
    return "".join(f"{value}{unit}" for value, unit in parts if value) or "0s"


class _IntOrString:
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = handler(schema)
        text.pop("type")
        return {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            **text,
        }


def _to_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(max_length=32, pattern="^[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]+)?$"),
    BeforeValidator(_to_text),
    _IntOrString(),
]
"""A Kubernetes quantity: 2, 500m, 4Gi."""

_SUFFIXES = {"": 1.0, "m": 1e-3} | {
    suffix: float(base ** (power + 1))
    for base, suffixes in ((1000, "k M G T P E"), (1024, "Ki Mi Gi Ti Pi Ei"))
    for power, suffix in enumerate(suffixes.split())
}


def parse_quantity(text: str) -> float:
    """The value of a Kubernetes quantity in base units (cores, bytes). Raises ValueError if it is none."""
    match = re.match(r"^([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)([a-zA-Z]*)$", text)
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a quantity; write one such as 2, 500m or 4Gi")
    return float(match[1]) * _SUFFIXES[match[2]]


class _Opaque:
    """A value whose fields Kubernetes or another program defines; it is kept as it is."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


class _AnyValue:
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"x-kubernetes-preserve-unknown-fields": True}


OpaqueObject = Annotated[Mapping[str, JsonValue], _Opaque()]
AnyValue = Annotated[JsonValue, _AnyValue()]


# --- References and pods --------------------------------------------------------------------------------


class Task(StrEnum):
    """Computer-vision task."""

    CLASSIFICATION = "Classification"
    DETECTION = "Detection"
    SEMANTIC_SEGMENTATION = "SemanticSegmentation"
    INSTANCE_SEGMENTATION = "InstanceSegmentation"

    @property
    def finds_objects(self) -> bool:
        """Whether the answer is a list of objects, each with a box, a class and a score."""
        return self in (Task.DETECTION, Task.INSTANCE_SEGMENTATION)


class DeletionPolicy(StrEnum):
    """What happens to data in the store when its object is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class Ref(Model):
    """Reference to an object in the same namespace."""

    name: ObjectName
    """Name of the object."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference that a spec makes: the kind and name referred to, and the field that says so."""

    kind: str
    name: str
    path: str
    version: str = ""
    """The version of a Dataset that the reference pins; empty: none."""


ResourceName = Annotated[
    str, Field(max_length=253, pattern="^([-.a-z0-9]+/)?[a-zA-Z0-9]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?$")
]
ResourceList = Annotated[Mapping[ResourceName, Quantity], Field(max_length=16)]


def _requests_within_limits(resources: Resources) -> bool:
    return all(
        parse_quantity(amount) <= parse_quantity(resources.limits[name])
        for name, amount in resources.requests.items()
        if name in resources.limits
    )


class Resources(Model):
    """Compute resources of one pod, as in a Kubernetes container."""

    requests: ResourceList = {}
    """Reserved amounts by resource name, in cores (cpu), bytes (memory) or units."""
    limits: ResourceList = {}
    """Maximum amounts by resource name; request GPUs here."""

    rules: ClassVar = (
        Rule(
            "self.requests.all(name, !(name in self.limits) || "
            "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            "a request must not exceed the limit of the same resource; lower the request or raise the limit",
            _requests_within_limits,
            ".requests",
        ),
    )


class Toleration(Model):
    """Toleration of a taint, as in a Kubernetes pod."""

    key: Annotated[str, Field(max_length=316)] = ""
    """Key of the taint. Empty with operator Exists: matches every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Comparison with the taint."""
    value: Annotated[str, Field(max_length=63)] = ""
    """Value of the taint, for operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Absent: all effects."""
    toleration_seconds: Annotated[Int, Field(ge=0)] | None = None
    """Seconds for which a NoExecute taint is tolerated. Absent: forever."""

    rules: ClassVar = (
        Rule(
            "self.operator == 'Exists' || size(self.key) > 0",
            "operator Equal needs a key; to tolerate every taint use operator Exists",
            lambda obj: obj.operator == "Exists" or obj.key != "",
            ".key",
        ),
    )


class OpenModel(Model):
    """A named object with further fields that Kubernetes defines and checks when the pod is made.

    They are kept also where a reader passes over fields that it does not know.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="wrap")
    @classmethod
    def _keep_further_fields(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(data)
        if isinstance(data, Mapping):
            own = {name for field, info in cls.model_fields.items() for name in (field, info.alias)}
            further = {name: value for name, value in data.items() if name not in own}
            object.__setattr__(made, "__pydantic_extra__", further)
        return made


class Volume(OpenModel):
    """Volume of the pods; further fields as in a Kubernetes pod."""

    name: Label
    """Name of the volume."""


class VolumeMount(OpenModel):
    """Mount of a volume; further fields as in a Kubernetes container."""

    name: Label
    """Name of the volume."""
    mount_path: Annotated[str, Field(max_length=1024, pattern="^/[^:]*$")]
    """Absolute path in the container."""


class EnvVar(OpenModel):
    """Environment variable; valueFrom as in a Kubernetes container."""

    name: Annotated[str, Field(max_length=256, pattern="^[-._a-zA-Z][-._a-zA-Z0-9]*$")]
    """Name of the variable; names that start with FOVEA_ are reserved."""
    value: Annotated[str, Field(max_length=32768)] | None = None
    """Value of the variable."""

    rules: ClassVar = (
        Rule(
            "!self.name.startsWith('FOVEA_')",
            "names that start with FOVEA_ belong to Fovea; choose another name",
            lambda obj: not obj.name.startswith("FOVEA_"),
            ".name",
        ),
    )


LabelMap = Annotated[
    Mapping[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=63)]], Field(max_length=64)
]


class PodTemplate(Model):
    """Configurable part of a pod. Security settings and the ServiceAccount are set by Fovea."""

    node_selector: LabelMap = {}
    """Labels that a node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    """Tolerations of the pods."""
    affinity: OpaqueObject | None = None
    """Node and pod affinity, as in a Kubernetes pod."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=32), ListMap(("name",))] = ()
    """Additional volumes."""
    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=32), ListMap(("mountPath",))] = ()
    """Mounts of the additional volumes."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=128), ListMap(("name",))] = ()
    """Additional environment variables."""
    image_pull_secrets: Annotated[tuple[Ref, ...], Field(max_length=16), ListMap(("name",))] = ()
    """Secrets for pulling the image."""
    labels: LabelMap = {}
    """Additional labels of the pods; the prefix fovea.dev/ is reserved."""
    annotations: Annotated[
        Mapping[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=4096)]],
        Field(max_length=64),
    ] = {}
    """Additional annotations of the pods."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods."""

    rules: ClassVar = (
        Rule(
            f"self.labels.all(key, !key.startsWith('{GROUP}/'))",
            f"labels of {GROUP}/ belong to Fovea; remove them",
            lambda obj: not any(key.startswith(f"{GROUP}/") for key in obj.labels),
            ".labels",
        ),
    )


class RunPolicy(Model):
    """Suspension, retries, limits and history of runs."""

    suspend: Bool = False
    """Stops the current run and starts no other. When reset to false, training resumes from the last checkpoint."""
    retries: Annotated[Int, Field(ge=0, le=100)] = 3
    """Number of retries after failures; each resumes from the last checkpoint. Preemption does not count."""
    active_deadline: Duration | None = None
    """Maximum total running time of all attempts of a run, excluding time in a queue. Absent: no limit."""
    ttl_after_finished: Duration = "30s"
    """How long the Ray cluster of a finished run, with its GPUs, is kept. Results and log are in the store."""
    history_limit: Annotated[Int, Field(ge=1, le=100)] = 10
    """Number of finished Runs to keep."""
    queue_name: ObjectName | None = None
    """Kueue LocalQueue of the runs. Default: that of the installation, if any."""
    workload_priority_class_name: ObjectName | None = None
    """Kueue WorkloadPriorityClass of the runs."""

    rules: ClassVar = (
        Rule(
            "!has(self.workloadPriorityClassName) || has(self.queueName)",
            "workloadPriorityClassName has an effect only in a queue; give queueName too or remove it",
            lambda obj: obj.workload_priority_class_name is None or obj.queue_name is not None,
            ".workloadPriorityClassName",
        ),
    )


# --- Status and objects ---------------------------------------------------------------------------------


class Condition(Model):
    """Condition of the object, in the standard format of Kubernetes."""

    type: Annotated[str, Field(max_length=316)]
    """Type of the condition: Ready, Reconciling, Stalled, …"""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition."""
    reason: Annotated[str, Field(max_length=1024, pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Reason of the status, as one CamelCase word."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Human-readable explanation."""
    last_transition_time: Time
    """Time of the last change of the status."""
    observed_generation: Annotated[Int, Field(ge=0)] | None = None
    """Generation of the spec that the condition describes."""


Conditions = Annotated[tuple[Condition, ...], Field(max_length=32), ListMap(("type",))]


class Usage(Model):
    """Compute time: the requests of pods, multiplied by the time from their scheduling to their end, idle or not."""

    cpu_hours: Annotated[Number, Field(ge=0)] = 0
    """CPU core hours."""
    gpu_hours: Annotated[Number, Field(ge=0)] = 0
    """GPU hours."""


class Status(Model):
    """Observed state that all kinds share."""

    observed_generation: Annotated[Int, Field(ge=-1)] | None = None
    """Generation of the spec that the status describes; -1: none yet."""
    conditions: Conditions = ()
    """Conditions of the object; Ready means that the desired state is reached."""


class OwnerReference(Model):
    """Owner of the object."""

    model_config = ConfigDict(extra="ignore")

    kind: str
    """Kind of the owner."""
    name: str
    """Name of the owner."""
    uid: str
    """Unique ID of the owner."""
    controller: bool = False
    """Whether the owner controls this object."""


def _is_label(name: str) -> str:
    if len(name) > 63 or not re.match(LABEL_PATTERN, name):
        raise PydanticCustomError("name", NAME_MESSAGE)
    return name


NAME_MESSAGE = (
    "metadata.name must be a DNS-1035 label: at most 63 lower-case letters, digits and '-', "
    "starting with a letter and ending with a letter or digit"
)


class Metadata(Model):
    """The part of a Kubernetes object's metadata that Fovea reads."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, AfterValidator(_is_label)]
    """Name, unique for the kind in its namespace."""
    namespace: str = "default"
    """Namespace."""
    uid: str = ""
    """Unique ID assigned by the API server."""
    generation: int = 0
    """Number of the current generation of the spec."""
    resource_version: str = ""
    """Version of the object, as assigned by the API server."""
    labels: Mapping[str, str] = {}
    """Labels."""
    annotations: Mapping[str, str] = {}
    """Annotations."""
    creation_timestamp: Time | None = None
    """Time of creation."""
    deletion_timestamp: Time | None = None
    """Time of the deletion request. Absent: none."""
    owner_references: tuple[OwnerReference, ...] = ()
    """Owners of the object."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    json_path: str
    type: Literal["string", "integer", "number", "date", "boolean"] = "string"
    description: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Definition:
    """What a CRD says of a kind beside its schema."""

    plural: str
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    scale: bool = False
    """Whether `kubectl scale` works, on spec.scaling.replicas."""


class Resource(Model):
    """A whole object of one of Fovea's kinds."""

    definition: ClassVar[Definition]

    api_version: Literal["fovea.dev/v1alpha1"] = "fovea.dev/v1alpha1"
    """Version of the API."""
    metadata: Metadata
    """Standard object metadata."""

    @classmethod
    def status_fields(cls) -> frozenset[str]:
        """The fields of this kind's status, as Kubernetes writes them."""
        annotation = cls.model_fields["status"].annotation
        models = [part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, Status)]
        return frozenset(field.alias or name for model in models for name, field in model.model_fields.items())
