"""Mutates what is decided and calculated, and counts which changes the tests notice: `make mutants`.

`make mutants AREA=training` does one area, `AREA=training/losses.py` one file; several may be given. mutmut expects one
folder of sources, and this repository has one for each part, so it works on a copy, kept where FOVEA_MUTANTS says: a
run that was cut off goes on there. FOVEA_MUTANTS_CHILDREN limits the processes, FOVEA_MUTANTS_SAMPLE the mutants of
each file to so many, drawn at random with a fixed seed: of 100 the share is known to some eight points.

What is not mutated: log lines and names of tasks, and the prose of messages, that is string literals with a space in
them. Tests state what an operator does and which reason it gives, not how it words it; reasons, field names, labels and
all else are mutated. A mutant is run against the tests that call its function: a table must hold situations, and not
what came of them, which is computed while tests are collected. A mutant that the type checker refuses counts as
noticed, for CI runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Area:
    """Files below a package, the tests that must notice what is changed in them, and the least share of each file."""

    package: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    least: float


def _tests(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/unit/{folder}/test_{name}.py" for name in names)


PLANNERS = (
    *("dataset", "trainingjob", "tuningsweep", "modeldeployment", "canary", "requests", "cleanup", "usage", "endings"),
    *("recorded_plans", "recorded_runs", "engine", "kstatus"),
)
"""Tests of what planners decide. Not among them are those with Hypothesis, which runs in one process alone."""
AREAS = {
    "operator": (
        Area("fovea_operator", ("queue.py",), _tests("operator", "queue"), 0.85),
        Area("fovea_operator", ("apply.py",), _tests("operator", "apply", "ownership"), 0.85),
        Area("fovea_operator", ("engine.py",), _tests("operator", "engine"), 0.85),
        Area("fovea_operator", ("runs/lifecycle.py",), _tests("operator", "lifecycle", "endings", "kueue"), 0.85),
        Area("fovea_operator", ("ownership.py",), _tests("operator", "ownership", "apply"), 0.85),
        Area("fovea_operator", ("cleanups/plan.py",), _tests("operator", "cleanup"), 0.85),
        Area("fovea_operator", ("kinds/*/plan*.py", "runs/plan.py"), _tests("operator", *PLANNERS), 0.85),
    ),
    "training": (
        Area("fovea_trainer/models", ("losses.py",), _tests("models", "losses"), 0.8),
        Area("fovea_trainer/models", ("boxes.py", "anchors.py"), _tests("models", "boxes", "anchors"), 0.8),
        Area("fovea_trainer/tasks/detection", ("matching.py",), _tests("evaluation", "detection"), 0.8),
        *(
            Area("fovea_trainer/training", (f"{name}.py",), _tests("training", name), 0.8)
            for name in ("schedule", "order", "optimizer", "update")
        ),
        Area(
            "fovea_serving/pipeline",
            ("predictions/*.py", "geometry.py"),
            _tests("serving", "postprocess", "predictions", "preprocess", "tiles", "wire", "golden", "predictor"),
            0.8,
        ),
    ),
}
NOT_MUTATED = (r"logger\.", r"name=f?\"")
"""Lines whose words are for people who look for a fault: nothing depends on them."""
NOTICED = ("killed", "timeout", "caught by type check", "segfault")
TYPE_CHECK = ("mypy", "--output", "json", "--follow-imports", "silent", "--no-warn-unused-ignores")
MUTMUT = """
import os, random
import mutmut.__main__ as mutmut
from mutmut.mutation import mutators

def words(node, mutants=mutators.operator_string):
    return () if " " in getattr(node, "value", "") else mutants(node)

known = mutators.mutation_operators
known[:] = [(kind, words if mutants is mutators.operator_string else mutants) for kind, mutants in known]
collect, size = mutmut.collect_source_file_mutation_data, int(os.environ.get("FOVEA_MUTANTS_SAMPLE", "0"))

def sample(**names):
    mutants, files = collect(**names)
    drawn = []
    for file in files.values():
        of_file = [mutant for mutant in mutants if mutant[0] is file]
        drawn += random.Random(0).sample(of_file, min(size or len(of_file), len(of_file)))
    return drawn, files

mutmut.collect_source_file_mutation_data = sample
mutmut.cli()
"""
"""mutmut, but for the prose of messages, and of each file a sample where one is asked for."""


def main(names: list[str]) -> int:
    """Mutates what is named, or all; prints the mutants that survive. Returns 1 where too many of a file do."""
    return max([mutate(part) for name in names or AREAS for part in parts_of(name)])


def parts_of(name: str) -> list[Area]:
    """The parts of an area, or one file of it."""
    area, _, file = name.partition("/")
    if not file:
        return list(AREAS[area])
    parts = [replace(part, files=(file,)) for part in AREAS[area] if any(fnmatch(file, known) for known in part.files)]
    if not parts:
        known = ", ".join(pattern for part in AREAS[area] for pattern in part.files)
        raise SystemExit(f"{name}: no tests are named for this file; use one of {known}")
    return parts


def mutate(area: Area) -> int:
    """Whether too many changes of a file go unnoticed, 0 or 1."""
    if (kept := os.environ.get("FOVEA_MUTANTS")) is not None:
        return _mutate(area, Path(kept) / "-".join([area.package, *area.files]).replace("/", "."))
    with tempfile.TemporaryDirectory(prefix="fovea-mutants-") as folder:
        return _mutate(area, Path(folder))


def _mutate(area: Area, work: Path) -> int:
    _copy(area, work)
    with (work / "log").open("w") as log:
        subprocess.run(
            [*_mutmut("run"), *_children()], cwd=work, env=_environment(), stdout=log, stderr=log, check=False
        )
    listed = [line.strip().split(": ") for line in _output(work, "results", "--all", "true") if ": " in line]
    results = [(name, result) for name, result in listed if result != "not checked"]
    if not results:
        print((work / "log").read_text()[-3000:])
        return 1
    for name, result in results:
        if result not in NOTICED:
            print(f"{name}: {result}\n" + "\n".join(_output(work, "show", name)))
    by_module: dict[str, list[str]] = {}
    for name, result in results:
        by_module.setdefault(name.rpartition(".")[0], []).append(result)
    return max(_report(area, module, found) for module, found in sorted(by_module.items()))


def _report(area: Area, module: str, results: list[str]) -> int:
    """Prints the count of one module; returns 1 where too few were noticed."""
    noticed = sum(result in NOTICED for result in results)
    share = noticed / len(results)
    print(f"{module}: {noticed}/{len(results)} = {share:.1%}, at least {area.least:.0%}; {dict(Counter(results))}")
    return int(share < area.least)


def _copy(area: Area, work: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for package in ROOT.glob("[a-z]*/fovea_*"):
        shutil.copytree(package, work / "src" / package.name, ignore=ignored, dirs_exist_ok=True)
    for part in ("tests", "docs", "examples"):
        shutil.copytree(ROOT / part, work / part, ignore=ignored, dirs_exist_ok=True)
    only = [f"src/{area.package}/{file}" for file in area.files]
    project = (ROOT / "pyproject.toml").read_text().replace('mypy_path = "', 'mypy_path = "src:')
    checked = [str(path.relative_to(work)) for pattern in only for path in work.glob(pattern)]
    (work / "pyproject.toml").write_text(
        f"{project}\n[tool.mutmut]\n"
        f'source_paths = ["src"]\nonly_mutate = {only}\nalso_copy = ["docs", "examples"]\n'
        f"do_not_mutate_patterns = {list(NOT_MUTATED)}\ntimeout_multiplier = 5.0\n"
        'pytest_add_cli_args = ["-p", "no:cacheprovider"]\n'
        f"pytest_add_cli_args_test_selection = {list(area.tests)}\n"
        f"type_check_command = {[*TYPE_CHECK, *checked]}\n"
    )


def _mutmut(*words: str) -> list[str]:
    return [sys.executable, "-c", MUTMUT, *words]


def _children() -> list[str]:
    count = os.environ.get("FOVEA_MUTANTS_CHILDREN")
    return ["--max-children", count] if count else []


def _environment() -> dict[str, str]:
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb", "PATH": binaries}


def _output(work: Path, *words: str) -> list[str]:
    done = subprocess.run(_mutmut(*words), cwd=work, env=_environment(), capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
