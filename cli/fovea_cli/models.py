"""`fovea models`: the architectures that can be trained."""

from __future__ import annotations

from collections.abc import Mapping

import click
from fovea_api.architectures import TIMM, Architecture, catalogue, find
from fovea_api.backbones import backbones
from fovea_api.common import Task
from fovea_api.figures import figures, measured
from pydantic import JsonValue

from fovea_cli.output import output_option, print_json, print_table

HEADER = (
    "NAME",
    "TASK",
    "INPUT",
    "M PARAMETERS",
    "G MACS",
    "MB",
    "CPU MS",
    "WEIGHTS",
    "LICENCE",
    "OF WEIGHTS",
    "OPTIONS",
)


@click.command("models")
@click.argument("text", default="")
@click.option("--task", type=click.Choice([str(task) for task in Task]), help="Only architectures for this task.")
@click.option("--licence", metavar="SPDX", help="Only those whose code or published weights have this licence.")
@click.option("--packaged", is_flag=True, help="Only those with published weights that need no network.")
@click.option("--max-parameters", metavar="MILLIONS", type=float, help="Only those with at most so many.")
@click.option("--max-macs", metavar="BILLIONS", type=float, help="Only those that compute at most so much an image.")
@click.option("--max-size", metavar="MEGABYTES", type=float, help="Only those whose file is at most so large.")
@click.option("--max-latency", metavar="MILLISECONDS", type=float, help="Only those that took at most so long.")
@output_option
def command(
    text: str,
    task: str | None,
    licence: str | None,
    packaged: bool,
    max_parameters: float | None,
    max_macs: float | None,
    max_size: float | None,
    max_latency: float | None,
    output: str,
) -> None:
    """Lists the architectures: task, input, size, published weights, licences of code and weights, and options.

    TEXT is a part of the name. A text that begins with timm/ lists the models of timm: each can be trained as a
    classifier, and many can be the backbone of a detector or segmenter.

    M PARAMETERS are millions of parameters, G MACS billions of multiply-accumulates for an image, both with default
    options and input and for ten classes. MB is the size of the ONNX file in FP32 and CPU MS how long one core took for
    an image, on the machine that is named below the list: on another one, expect another time. A dash is what is not
    known, as of the models of timm; a limit leaves these out.

    Packaged weights come with the installation; the others are fetched from the network when a training starts.
    """
    limits = {
        "megaParameters": max_parameters,
        "gigaMacs": max_macs,
        "megabytes": max_size,
        "milliseconds": max_latency,
    }
    models = [
        model
        for model in _named(text)
        if (task is None or model.task == task)
        and (licence is None or licence.casefold() in map(str.casefold, _licences(model)))
        and (model.packaged or not packaged)
        and _within(_known(model), limits)
    ]
    if output == "json":
        known = ((model, _known(model)) for model in models)
        print_json([model.to_dict() | ({"figures": found} if found else {}) for model, found in known])
        return
    rows = [
        (
            model.name,
            str(model.task),
            f"{model.width} x {model.height}",
            *(_column(_known(model).get(name)) for name in limits),
            ", ".join(_weights(model)),
            model.licence,
            model.weights_licence if len(model.weights) > 1 else "-",
            ", ".join(option.name for option in model.options) or "-",
        )
        for model in models
    ]
    print_table(rows, HEADER)
    machines = sorted({measured()[model.name].machine for model in models if model.name in measured()})
    if machines:
        click.echo(f"CPU MS: in FP32, on one core of {' or '.join(machines)}", err=True)
    if not text:
        click.echo(f"{TIMM}NAME is a classifier on any model of timm: fovea models {TIMM}", err=True)


def _known(model: Architecture) -> dict[str, JsonValue]:
    """What was calculated and measured of an architecture."""
    found = (every.get(model.name) for every in (figures(), measured()))
    return {name: value for each in found if each is not None for name, value in each.to_dict().items()}


def _within(known: Mapping[str, JsonValue], limits: Mapping[str, float | None]) -> bool:
    """Whether what is known of an architecture keeps the limits; what is not known keeps none."""
    return all(
        limit is None or (isinstance(value := known.get(name), float) and value <= limit)
        for name, limit in limits.items()
    )


def _weights(model: Architecture) -> list[str]:
    """The names of its published weights, with what else there is to know."""
    names = [f"{name} (packaged)" if name in model.packaged else name for name in model.weights]
    return names if model.coco is None else [*names, f"COCO ({model.coco.needed})"]


def _column(value: JsonValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-"


def _named(text: str) -> list[Architecture]:
    if text.startswith(TIMM):
        part = text.removeprefix(TIMM)
        return [find(f"{TIMM}{name}") for name in backbones() if part in name]
    return sorted(
        (model for model in catalogue().values() if text in model.name), key=lambda model: (model.task, model.name)
    )


def _licences(model: Architecture) -> tuple[str, ...]:
    """Of its code, and of its published weights where there are any."""
    of_weights = (model.weights_licence,) if len(model.weights) > 1 else ()
    return (model.licence, *of_weights, *(() if model.coco is None else (model.coco.licence,)))
