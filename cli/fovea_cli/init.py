"""`fovea init`: from a folder of images and labels to a manifest."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from fovea_api.errors import InvalidInput

from fovea_cli.dataset import print_all, print_summary
from fovea_cli.output import output_option, print_json


@click.command("init")
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--file",
    "-f",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The manifest to write.  [default: the folder's name with .yaml, here]",
)
@click.option("--name", help="Name of the Dataset and the TrainingJob; absent: the folder's.")
@click.option("--format", "format_", help="Format of the labels; absent: the one that the files look like.")
@click.option("--task", help="Such as Detection or InstanceSegmentation; absent: what the format is for.")
@click.option("--class", "classes", multiple=True, help="A class, in order of the index; absent: as the labels say.")
@click.option("--architecture", help="See `fovea models`; absent: the smallest of the task.")
@click.option("--uri", help="Where a cluster will read the images.  [default: pvc://datasets/NAME]")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that read images.")
@click.option("--force", is_flag=True, help="Replace the manifest if there is one.")
@output_option
def command(
    folder: Path,
    file: Path | None,
    name: str | None,
    format_: str | None,
    task: str | None,
    classes: tuple[str, ...],
    architecture: str | None,
    uri: str | None,
    workers: int,
    force: bool,
    output: str,
) -> None:
    """Looks at a FOLDER (or archive) of labelled images and writes the manifest to train on them.

    Says what the folder is: format, task, classes, counts, splits, and all that looks wrong. The manifest holds a
    Dataset and a TrainingJob with comments, for `fovea train -f` as for `kubectl apply`. Ends with 1, and writes
    nothing, where the images cannot be used as they are.
    """
    from fovea_trainer.init import object_name, start_from

    target = file or Path(f"{name or object_name(folder)}.yaml")
    if target.exists() and not force:
        raise InvalidInput("the file exists", str(target), "give another --file, or replace it with --force")
    start = start_from(
        folder,
        target.absolute().parent,
        name=name,
        format_=format_,
        task=task,
        classes=classes,
        architecture=architecture,
        uri=uri,
        workers=workers,
    )
    if start.manifest:
        target.write_text(start.manifest.replace("THIS_FILE", shlex.quote(str(target))), encoding="utf-8")
    if output == "json":
        print_json({"manifest": str(target) if start.manifest else None, **start.to_dict()})
    else:
        (source,) = start.recipe.sources
        click.echo(f"read as {source.format} for {start.recipe.task}\n")
        if start.checked.summary is not None:
            print_summary(start.checked.summary)
        print_all(start.checked.findings)
        for note in start.notes:
            click.echo(f"\n{note}")
        if start.manifest:
            click.echo(f"\nmodel     {start.architecture.name}, by its preset\nmanifest  {target}")
            click.echo(f"next      fovea train -f {shlex.quote(str(target))}")
    if start.checked.refusal is not None:
        raise start.checked.refusal
