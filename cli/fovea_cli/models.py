"""`fovea models`: the architectures that can be trained."""

from __future__ import annotations

import click
from fovea_api.architectures import catalogue

from fovea_cli.output import output_option, print_json, print_table


@click.command("models")
@output_option
def command(output: str) -> None:
    """Lists the architectures: task, own input size, published weights and options.

    Packaged weights come with the installation; the others are fetched from the network when a training starts.
    """
    models = sorted(catalogue().values(), key=lambda model: (model.task, model.name))
    if output == "json":
        print_json([model.to_dict() for model in models])
        return
    rows = [
        (
            model.name,
            str(model.task),
            f"{model.width} x {model.height}",
            ", ".join(f"{name} (packaged)" if name in model.packaged else name for name in model.weights),
            ", ".join(option.name for option in model.options) or "-",
        )
        for model in models
    ]
    print_table(rows, ("NAME", "TASK", "INPUT", "WEIGHTS", "OPTIONS"))
