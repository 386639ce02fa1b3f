"""`fovea models`: the architectures that can be trained."""

from __future__ import annotations

import click
from fovea_api.architectures import TIMM, Architecture, catalogue, find
from fovea_api.backbones import backbones
from fovea_api.common import Task

from fovea_cli.output import output_option, print_json, print_table


@click.command("models")
@click.argument("text", default="")
@click.option("--task", type=click.Choice([str(task) for task in Task]), help="Only architectures for this task.")
@click.option("--licence", metavar="SPDX", help="Only those whose code or published weights have this licence.")
@click.option("--packaged", is_flag=True, help="Only those with published weights that need no network.")
@output_option
def command(text: str, task: str | None, licence: str | None, packaged: bool, output: str) -> None:
    """Lists the architectures: task, own input size, published weights, licences of code and weights, and options.

    TEXT is a part of the name. A text that begins with timm/ lists the models of timm: each can be trained as a
    classifier, and many can be the backbone of a detector or segmenter.

    Packaged weights come with the installation; the others are fetched from the network when a training starts.
    """
    models = [
        model
        for model in _named(text)
        if (task is None or model.task == task)
        and (licence is None or licence.casefold() in map(str.casefold, _licences(model)))
        and (model.packaged or not packaged)
    ]
    if output == "json":
        print_json([model.to_dict() for model in models])
        return
    rows = [
        (
            model.name,
            str(model.task),
            f"{model.width} x {model.height}",
            ", ".join(f"{name} (packaged)" if name in model.packaged else name for name in model.weights),
            model.licence,
            model.weights_licence if len(model.weights) > 1 else "-",
            ", ".join(option.name for option in model.options) or "-",
        )
        for model in models
    ]
    print_table(rows, ("NAME", "TASK", "INPUT", "WEIGHTS", "LICENCE", "OF WEIGHTS", "OPTIONS"))
    if not text:
        click.echo(f"{TIMM}NAME is a classifier on any model of timm: fovea models {TIMM}", err=True)


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
