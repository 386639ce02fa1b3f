"""What describes a YOLO data set: names of the classes, keypoints and splits, from `data.yaml`, `obj.data` or lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import yaml
from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.records import SPLIT_NAMES

USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
"""Descriptions that go before others of the same folder."""
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
"""Lists of names, one a line."""
MAX_CLASSES = 10_000
MAX_YAML = 1 << 20
"""Characters of a description; 10,000 names have a fifth of that."""
MAX_DEPTH = 32
"""Nesting of a description, which has 2; reading it takes time by the square of it."""
_OPENING = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken,
            yaml.BlockMappingStartToken)  # fmt: skip
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
YamlValue = str | list["YamlValue"] | dict[str, "YamlValue"]


@dataclass(frozen=True, slots=True)
class Names:
    """What classes are called, by number."""

    by_number: Mapping[int, str] = field(default_factory=dict)
    place: str = ""

    def of(self, number: int) -> str | None:
        """The class of a number: the number itself where no class has a name."""
        return self.by_number.get(number) if self.by_number else str(number)

    @property
    def known(self) -> str:
        """The names with their numbers, for messages."""
        shown = [f"{number}: {name}" for number, name in list(self.by_number.items())[:10]]
        return ", ".join(shown + ["…"] * (len(self.by_number) > 10))

    def __bool__(self) -> bool:
        return bool(self.by_number)


@dataclass(frozen=True, slots=True)
class Description:
    """A data.yaml or obj.data."""

    place: str
    names: Names = field(default_factory=Names)
    keypoints: tuple[int, int] | None = None
    """Number and dimensions (2, or 3 with visibility)."""
    splits: tuple[tuple[str, str], ...] = ()
    """Split, and the folder or list of images that is in it, as written."""
    base: str = ""
    """`path`: what the folders and lists are relative to, as written."""

    def file(self, tree: Tree, named: str) -> str | None:
        """A file that the description names. Raises InvalidInput where two could be meant."""
        located = tree.locate(named, self.place)
        return located.path if located else None

    def folder(self, tree: Tree, named: str) -> str | None:
        """A folder that the description names: as written, or without what is above the source."""
        here = self.place.rpartition("/")[0]
        parts = [part for part in f"{self.base}/{named}".replace("\\", "/").split("/") if part not in ("", ".", "..")]
        short = [part for part in named.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        ends = [*(parts[index:] for index in range(len(parts))), *(short[index:] for index in range(len(short)))]
        if not short:
            return here
        candidates = ("/".join((*((here,) if here else ()), *end)) for end in ends if end)
        inside = next((path for path in candidates if tree.has_folder(path)), None)
        return inside or next((path for end in ends if end and tree.has_folder(path := "/".join(end))), None)


def descriptions(tree: Tree) -> tuple[dict[str, Description], list[Finding]]:
    """The description of each folder that has one. Raises InvalidInput for two that disagree."""
    by_folder: dict[str, list[Description]] = defaultdict(list)
    findings: list[Finding] = []
    for path in tree.with_suffix(".yaml", ".yml", ".data"):
        try:
            described = _darknet(tree, path) if path.endswith(".data") else _yaml(tree, path, findings)
        except InvalidInput as error:
            if PurePosixPath(path).name in USUAL:
                raise
            findings.append(Finding(FindingKind.UNREADABLE_FILE, error.location or path, error.message))
            continue
        if described is not None:
            by_folder[str(PurePosixPath(path).parent)].append(described)
    return {folder: _one(several, findings) for folder, several in by_folder.items()}, findings


def name_lists(tree: Tree) -> tuple[dict[str, Names], list[Finding]]:
    """The list of names of each folder that has one."""
    lists: dict[str, Names] = {}
    findings: list[Finding] = []
    for path in sorted(tree.files):
        if PurePosixPath(path).name in NAME_FILES:
            text, encoding = tree.read_text(path)
            if encoding == "windows-1252":
                message = "the file is no UTF-8 text; it is read as Windows-1252, and names may be wrong"
                findings.append(Finding(FindingKind.UNREADABLE_FILE, path, message))
            # An empty line keeps its number: the lines behind it are numbered as the labelling tool counted them.
            named = {number: line.strip() for number, line in enumerate(text.splitlines()) if line.strip()}
            if named:
                lists.setdefault(str(PurePosixPath(path).parent), Names(named, path))
                findings.extend(_doubts(named, path))
    return lists, findings


def _one(several: list[Description], findings: list[Finding]) -> Description:
    usual = sorted(
        (each for each in several if PurePosixPath(each.place).name in USUAL),
        key=lambda file: USUAL.index(PurePosixPath(file.place).name),
    )
    chosen, *others = usual or several
    differing = [each for each in others if each.names.by_number != chosen.names.by_number]
    if differing and len(usual) != 1:
        raise InvalidInput(
            f"it and {differing[0].place} give the classes different names: "
            f"{chosen.names.known} and {differing[0].names.known}",
            chosen.place,
            "keep the one that the labels were written with",
        )
    for other in [each for each in several if each is not chosen and each.names.by_number != chosen.names.by_number]:
        message = f"{other.place} has other names than {chosen.place}, which holds"
        findings.append(Finding(FindingKind.NAMES_DIFFER, other.place, message))
    return chosen


def _doubts(names: Mapping[int, str], place: str) -> Iterator[Finding]:
    """Names that stand for two numbers."""
    numbers: dict[str, int] = {}
    for number, name in names.items():
        if (first := numbers.setdefault(name, number)) != number:
            message = f"the classes {first} and {number} are both called {name!r}, and are one"
            yield Finding(FindingKind.NAMES_DIFFER, place, message)


# --- Darknet ------------------------------------------------------------------------------------------------


def _darknet(tree: Tree, path: str) -> Description | None:
    """`obj.data`: lines of `key = value`."""
    text, _ = tree.read_text(path)
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, value in pairs.items()}
    if not values.keys() & {"names", "train", "valid"}:
        return None
    splits = tuple((SPLIT_NAMES[key], value) for key, value in values.items() if key in SPLIT_NAMES and value)
    described = Description(path, splits=splits)
    listed = described.file(tree, values["names"]) if values.get("names") else None
    if listed is None:
        return described
    lines = tree.read_text(listed)[0].splitlines()
    names = Names({number: line.strip() for number, line in enumerate(lines) if line.strip()}, listed)
    return Description(path, names, splits=splits)


# --- YAML ---------------------------------------------------------------------------------------------------


def _yaml(tree: Tree, path: str, findings: list[Finding]) -> Description | None:
    """A description in YAML; None for another YAML, which has neither names nor splits."""
    text, _ = tree.read_text(path)
    content = _load(text, path)
    if not isinstance(content, dict) or not content.keys() & {"names", "train", "val", "kpt_shape"}:
        return None

    def line(key: str) -> str:
        numbered = enumerate(text.splitlines(), 1)
        return f"{path}:{next((number for number, text in numbered if text.startswith(key)), 1)}"

    named = _names(content["names"], line("names")) if "names" in content else {}
    for number, several in _given_twice(text).items():
        named.pop(number, None)
        message = f"the class {number} has two names, {' and '.join(several)}: which one is meant is not known"
        findings.append(Finding(FindingKind.NAMES_DIFFER, line("names"), message))
    names = Names(named, path) if named else Names()
    findings.extend(_doubts(names.by_number, line("names")))
    if (count := content.get("nc")) and names and str(count) != str(len(names.by_number)):
        message = f"nc is {count}, but there are {len(names.by_number)} names, which hold"
        findings.append(Finding(FindingKind.NAMES_DIFFER, line("nc"), message))
    base = content.get("path")
    return Description(
        path,
        names,
        _keypoints(content.get("kpt_shape"), line("kpt_shape")),
        tuple(_splits(content)),
        base if isinstance(base, str) else "",
    )


def _load(text: str, path: str) -> YamlValue:
    """The YAML with all values as they are written: yes, 1.0 and 007 are names, too."""
    if len(text) > MAX_YAML:
        raise InvalidInput(f"the file is longer than {MAX_YAML:,} characters", path, "keep names and splits only")
    depth = 0
    try:
        # Aliases and nesting are what YAML bombs are made of; lists of names need neither.
        for token in yaml.scan(text, Loader=yaml.BaseLoader):
            place = f"{path}:{token.start_mark.line + 1}"
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > MAX_DEPTH:
                raise InvalidInput(f"values are nested more than {MAX_DEPTH} deep", place)
            if isinstance(token, yaml.AliasToken):
                raise InvalidInput("the file uses YAML aliases", place, "write the values out")
        content: YamlValue = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidInput(f"the YAML is broken: {error.problem}", f"{path}:{line}", "repair the file") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"the YAML is broken: {error}", f"{path}:1", "repair the file") from None
    return content


def _names(value: YamlValue, place: str) -> dict[int, str]:
    """Names by number: a list counts from 0, a mapping says the numbers."""
    pairs = list(enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ())
    named = {int(str(number)): name for number, name in pairs if _is_number(number) and isinstance(name, str)}
    if not pairs or len(named) != len(pairs):
        raise InvalidInput("`names` is not a list of class names", place, "names: [cat, dog]")
    return {number: name.strip() for number, name in named.items() if name.strip()}


def _given_twice(text: str) -> dict[int, list[str]]:
    """Numbers of classes that a mapping of names has more than once, with other names; YAML keeps the last."""
    root = yaml.compose(text, Loader=yaml.BaseLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    names = next((value for key, value in pairs if key.value == "names"), None)
    numbers: dict[int, list[str]] = defaultdict(list)
    for key, value in names.value if isinstance(names, yaml.MappingNode) else ():
        if isinstance(value, yaml.ScalarNode) and _is_number(key.value) and value.value not in numbers[int(key.value)]:
            numbers[int(key.value)].append(value.value)
    return {number: several for number, several in numbers.items() if len(several) > 1}


def _is_number(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isdecimal() and int(value) < MAX_CLASSES)


def _keypoints(value: YamlValue | None, place: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2:
        match [int(each) for each in value if isinstance(each, str) and each.isdecimal() and len(each) < 5]:
            case [count, (2 | 3) as dimensions] if count > 0:
                return count, dimensions
    raise InvalidInput("`kpt_shape` is not [number of keypoints, 2 or 3]", place, "kpt_shape: [17, 3]")


def _splits(content: Mapping[str, YamlValue]) -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if key in SPLIT_NAMES:
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, str) and each.strip():
                    yield SPLIT_NAMES[key], each.strip()
