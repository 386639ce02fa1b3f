"""`fovea pull`: brings a model bundle, a dataset version or any folder from where a cluster keeps it."""

from __future__ import annotations

import re
from pathlib import Path

import click

from fovea_cli.output import output_option, print_json
from fovea_cli.progress import bytes_progress, size_in_words
from fovea_cli.remote import claim_options, open_remote


@click.command("pull")
@click.argument("source")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that gets the files.  [default: one of the source's own name; a bundle's is its digest, "
    "an image's that of its repository]",
)
@claim_options
@output_option
def command(source: str, to: Path | None, namespace: str | None, image: str | None, output: str) -> None:
    """Copies a SOURCE to this machine: the name of a TrainingJob, or the URI of a bundle, a version or any folder.

    An image, oci://registry/name:tag, is one that `fovea push` has made of a bundle.

    A folder of this machine is given with a slash, as ./NAME; without one, it is the name of a TrainingJob. A
    TrainingJob's bundle is the one of its status, which kubectl gives. A bundle is verified: every file against the
    digests of its bundle.yaml, and that one against the digest that the bundle is named by. What is here already is
    not copied again, so that an interrupted copy goes on by the same command.
    """
    from fovea_api.bundle import MANIFEST
    from fovea_serving.bundle import load_bundle, verify_digest
    from fovea_store.transfer import plan_pull

    from fovea_cli.kubectl import bundle_of

    named = "/" not in source or source.startswith("trainingjob/")  # also where the images' folder has the same name
    uri = bundle_of(source, namespace) if named else source
    name = uri.rstrip("/").rpartition("/")[2]
    folder = to or Path(name)
    if uri.startswith("oci://"):
        from fovea_store.images import image_of

        folder = to or Path(re.split("[:@]", name)[0])
        uri, pushed = image_of(uri)
        name = pushed.bundle
    with open_remote(uri, namespace, image) as remote:
        plan = plan_pull(remote, folder, uri)
        with bytes_progress("copied", plan.bytes) as received:
            remote.receive(folder, plan.paths, received)
    digest = None
    if (folder / MANIFEST).is_file():
        bundle = load_bundle(folder)
        digest = verify_digest(bundle.manifest, name, uri)
    if output == "json":
        print_json({"source": uri, "folder": str(folder), "copied": len(plan.paths), "bytes": plan.bytes,
                    "present": plan.present, "digest": digest})  # fmt: skip
        return
    click.echo(f"{len(plan.paths)} files copied ({size_in_words(plan.bytes)}), {plan.present} were there")
    click.echo(f"{'bundle' if digest else 'folder'}  {folder}" + ("  (verified)" if digest else ""))
