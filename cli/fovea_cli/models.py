"""`fovea models`: the architectures that can be trained."""

from __future__ import annotations

import click
from fovea_api.architectures import TIMM, Architecture, catalogue, find
from fovea_api.backbones import backbones
from fovea_api.common import Task
from fovea_api.figures import Figures, figures

from fovea_cli.output import output_option, print_json, print_table

HEADER = (
    "NAME",
    "TASK",
    "INPUT",
    "M PARAMETERS",
    "G MACS",
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
@output_option
def command(
    text: str,
    task: str | None,
    licence: str | None,
    packaged: bool,
    max_parameters: float | None,
    max_macs: float | None,
    output: str,
) -> None:
    """Lists the architectures: task, input, size, published weights, licences of code and weights, and options.

    TEXT is a part of the name. A text that begins with timm/ lists the models of timm: each can be trained as a
    classifier, and many can be the backbone of a detector or segmenter.

    M PARAMETERS are millions of parameters, G MACS billions of multiply-accumulates for an image, both with default
    options and input and for ten classes. They are not known of the models of timm, so a limit leaves these out.

    Packaged weights come with the installation; the others are fetched from the network when a training starts.
    """
    models = [
        model
        for model in _named(text)
        if (task is None or model.task == task)
        and (licence is None or licence.casefold() in map(str.casefold, _licences(model)))
        and (model.packaged or not packaged)
        and _within(figures().get(model.name), max_parameters, max_macs)
    ]
    if output == "json":
        known = ((model, figures().get(model.name)) for model in models)
        print_json([model.to_dict() | ({"figures": found.to_dict()} if found else {}) for model, found in known])
        return
    rows = [
        (
            model.name,
            str(model.task),
            f"{model.width} x {model.height}",
            *_size(figures().get(model.name)),
            ", ".join(f"{name} (packaged)" if name in model.packaged else name for name in model.weights),
            model.licence,
            model.weights_licence if len(model.weights) > 1 else "-",
            ", ".join(option.name for option in model.options) or "-",
        )
        for model in models
    ]
    print_table(rows, HEADER)
    if not text:
        click.echo(f"{TIMM}NAME is a classifier on any model of timm: fovea models {TIMM}", err=True)


def _within(found: Figures | None, max_parameters: float | None, max_macs: float | None) -> bool:
    """Whether figures keep the limits; where there are none, whether nothing is limited."""
    if found is None:
        return max_parameters is None and max_macs is None
    return (max_parameters is None or found.mega_parameters <= max_parameters) and (
        max_macs is None or found.giga_macs <= max_macs
    )


def _size(found: Figures | None) -> tuple[str, str]:
    return ("-", "-") if found is None else (f"{found.mega_parameters:.3g}", f"{found.giga_macs:.3g}")


def _named(text: str) -> list[Architecture]:
    if text.startswith(TIMM):
        part = text.removeprefix(TIMM)
        return [find(f"{TIMM}{name}") for name in backbones() if part in name]
    return sorted(
        (model for model in catalogue().values() if text in model.name), key=lambda model: (model.task, model.name)
    )


def _licences(model: Architecture) -> tuple[str, ...]:
    """Of its code, and of its published weights where there are any."""
    return (model.licence, *((model.weights_licence,) if len(model.weights) > 1 else ()))
