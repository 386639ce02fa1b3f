"""`fovea export`: the model of a bundle in another format."""

from __future__ import annotations

from pathlib import Path

import click
from fovea_api.errors import InvalidInput

from fovea_cli.output import output_option, print_json
from fovea_cli.remote import bundle_folder, claim_options


@click.command("export")
@click.argument("bundle")
@click.option("--format", "format_", required=True, help="As in spec.export.formats: ONNX, OpenVINO, TFLite, …")
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
    format_: str,
    to: Path | None,
    images: tuple[Path, ...],
    force: bool,
    namespace: str | None,
    image: str | None,
    output: str,
) -> None:
    """Writes the model of a BUNDLE (folder or URI) in another format, from its weights; the bundle stays as it is."""
    from fovea_serving.bundle import load_bundle
    from fovea_trainer.export import exporter
    from fovea_trainer.use import export_bundle, pictures_in

    target = to or Path(exporter(format_).file)
    for file in exporter(format_).files(target):
        if file.exists() and not force:
            raise InvalidInput("the file exists", str(file), "give another file by --to, or replace it with --force")
    loaded = load_bundle(bundle_folder(bundle, namespace, image))
    proof = export_bundle(loaded, format_, target, pictures_in(images))
    if output == "json":
        print_json({"file": str(target), "format": format_, "bytes": target.stat().st_size, "proof": proof})
        return
    click.echo(f"{target}  ({proof})")
