"""TFLite, by litert-torch in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fovea_api.errors import NotSupported
from fovea_serving.backends import LITERT

from fovea_trainer.export import litert
from fovea_trainer.export.exporter import Exportable, Exporter, ExportError, register
from fovea_trainer.export.exporters.exported_program import ExportedProgram

PYTHON_VARIABLE = "FOVEA_LITERT_PYTHON"
"""The Python of the environment that has litert-torch; unset: this one."""
CONVERSION_SECONDS = 3600
"""Seconds that a conversion may take; the largest networks take some minutes."""
LOOK_SECONDS = 120
"""Seconds that the other Python may take to say what it has; reading the metadata of a package takes one."""
_ERROR = re.compile(r"[\w.]+(Error|Exception|Interrupt)\b")
_VERSION = "from importlib.metadata import version; print(version('litert-torch'))"


@register
class TfLite(Exporter):
    """One image at a time, in NCHW like the others; outputs are `output_0`, … in the order of the task's names."""

    format, file, runnable = "TFLite", "model.tflite", True

    def write(self, model: Exportable, path: Path) -> None:
        self.libraries()
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / ExportedProgram.file
            ExportedProgram().write(replace(model, dynamic_batch=False), program)
            done = _run(CONVERSION_SECONDS, litert.__file__, str(program), str(path))
        if done.returncode or not path.exists():
            raise ExportError(f"litert-torch cannot convert the model: {_last_words(done.stderr)}", str(path))

    def libraries(self) -> Mapping[str, str]:
        found = _run(LOOK_SECONDS, "-c", _VERSION)
        if found.returncode:
            raise NotSupported(
                f"TFLite needs litert-torch, which {_python()} does not have",
                "spec.export.formats",
                f"use an image of the trainer with it, or name the Python of an environment that has it by "
                f"{PYTHON_VARIABLE}",
            )
        return {"litert-torch": found.stdout.strip(), **LITERT.version}


def _python() -> str:
    return os.environ.get(PYTHON_VARIABLE) or sys.executable


def _run(seconds: float, *words: str) -> subprocess.CompletedProcess[str]:
    """A call of that Python, which is killed when it takes longer.

    Raises:
        NotSupported: there is no such Python.
        ExportError: it took too long.
    """
    command: Sequence[str] = (_python(), "-P", *words)
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        message = f"the Python that converts to TFLite did not end within {seconds:g} s"
        raise ExportError(message, None, f"see what it waits for: {' '.join(command)}") from error
    except OSError as error:
        raise NotSupported(f"no Python to convert to TFLite: {error}", PYTHON_VARIABLE, "name one") from error


def _last_words(text: str) -> str:
    """The error in which a Python process ended; notes may follow it."""
    lines = text.strip().splitlines()
    return next((line for line in reversed(lines) if _ERROR.match(line)), "no error was reported")[:500]
