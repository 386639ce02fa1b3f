"""`fovea export`: the model of a bundle in another format."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click
from fovea_api.errors import InvalidInput

from fovea_cli.output import output_option, print_json
from fovea_cli.remote import bundle_folder, claim_options
from fovea_cli.sign import PASSWORD_VARIABLE


@click.command("export")
@click.argument("bundle")
@click.option("--format", "format_", help="As in spec.export.formats: ONNX, OpenVINO, TFLite, …")
@click.option(
    "--nms",
    is_flag=True,
    help="With ONNX, where there are boxes: non-maximum suppression and the bundle's thresholds in the graph, "
    "which gives the objects themselves.",
)
@click.option(
    "--package",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write an edge package instead: a ZIP file of model, labels, preprocessing and a runner without Fovea.",
)
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private key (PEM) that signs the package, as of `fovea sign`.",
)
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), help="The file.  [default: the format's own name, here]"
)
@click.option(
    "--images",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Pictures or a folder of them, on which what was written is held against the weights.",
)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@claim_options
@output_option
def command(
    bundle: str,
    format_: str | None,
    nms: bool,
    package: Path | None,
    key: Path | None,
    to: Path | None,
    images: tuple[Path, ...],
    force: bool,
    namespace: str | None,
    image: str | None,
    output: str,
) -> None:
    """Writes the model of a BUNDLE (folder or URI) in another format, from its weights, or as a package for where Fovea
    is not; the bundle stays as it is."""
    if (format_ is None) == (package is None):
        raise click.UsageError("give either --format or --package")
    if package is not None:
        if to is not None or images or nms:
            raise click.UsageError("--to, --images and --nms are for --format")
        _package(bundle_folder(bundle, namespace, image), package, key, force, output)
        return
    assert format_ is not None
    if key is not None:
        raise click.UsageError("--key is for --package")
    from fovea_serving.bundle import MODEL_WITH_NMS, load_bundle
    from fovea_trainer.export import exporter
    from fovea_trainer.use import export_bundle, pictures_in

    target = to or Path(MODEL_WITH_NMS if nms else exporter(format_).file)
    _spare(exporter(format_).files(target), force)
    loaded = load_bundle(bundle_folder(bundle, namespace, image))
    proof = export_bundle(loaded, format_, target, pictures_in(images), nms=nms)
    if output == "json":
        print_json({"file": str(target), "format": format_, "bytes": target.stat().st_size, "proof": proof})
        return
    click.echo(f"{target}  ({proof})")


def _package(folder: Path, target: Path, key: Path | None, force: bool, output: str) -> None:
    from fovea_serving.bundle import load_bundle
    from fovea_serving.edge import write_package

    _spare([target], force)
    write_package(load_bundle(folder), target, key, os.environ.get(PASSWORD_VARIABLE))
    if output == "json":
        print_json({"file": str(target), "bytes": target.stat().st_size, "signed": key is not None})
        return
    click.echo(f"{target}  ({'signed' if key else 'not signed'}; unpack it, then: python predict.py IMAGE)")


def _spare(files: Iterable[Path], force: bool) -> None:
    """Raises InvalidInput where one of the files is there and may not be replaced."""
    for file in files:
        if file.exists() and not force:
            raise InvalidInput("the file exists", str(file), "give another one, or replace it with --force")
