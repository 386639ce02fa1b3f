"""The option that names a format of the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import click

RUN = ("ONNX", "OpenVINO", "TFLite", "ExportedProgram")
"""Formats that can be run."""


def model_format_option(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option of this name, for the parameter `model_format`."""
    return click.option(
        *names,
        "model_format",
        type=click.Choice(RUN, case_sensitive=False),
        callback=_with_backends,
        help="Format of the model that predicts.  [default: the ONNX model that is served]",
    )


def _with_backends(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """The trainer has a backend of its own, for exported programs; where it is installed, that is known, too."""
    if value == "ExportedProgram":
        with contextlib.suppress(ImportError):
            import fovea_trainer.export.exporters.exported_program  # noqa: F401
    return value
