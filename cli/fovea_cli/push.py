"""`fovea push`: brings a folder, or a model bundle, to where a cluster reads it."""

from __future__ import annotations

from pathlib import Path

import click

from fovea_cli.output import output_option, print_json
from fovea_cli.progress import bytes_progress, size_in_words
from fovea_cli.remote import claim_options, open_remote


@click.command("push")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target")
@claim_options
@output_option
def command(folder: Path, target: str, namespace: str | None, image: str | None, output: str) -> None:
    """Copies a FOLDER to a TARGET: pvc://claim/path, s3://bucket/path, gs://bucket/path or oci://registry/name:tag.

    What is there already, of the same size and not older, is not copied again: a copy that was interrupted goes on by
    the same command. Nothing is deleted there; hidden files are left out. Outside of a cluster a claim is reached
    through kubectl, by a pod that mounts it meanwhile; an s3:// target takes its keys from the AWS_ variables.

    A registry takes verified model bundles alone, with the files under /models, and credentials as docker has them.
    """
    if target.startswith("oci://"):
        _push_image(folder, target, output)
        return
    from fovea_store.filesystems import split_uri
    from fovea_store.transfer import plan_push

    with open_remote(target, namespace, image) as remote:
        plan = plan_push(folder, remote)
        with bytes_progress("copied", plan.bytes) as sent:
            remote.send(folder, plan.paths, sent)
    if output == "json":
        print_json({"target": target, "copied": len(plan.paths), "bytes": plan.bytes, "present": plan.present})
        return
    click.echo(f"{len(plan.paths)} files copied ({size_in_words(plan.bytes)}), {plan.present} were there")
    if split_uri(target)[0]:
        click.echo(f"a Dataset reads them by  uri: {target.rstrip('/')}")
    else:
        click.echo(f"{target} is a folder of this machine; a claim is named by pvc://claim/path")


def _push_image(folder: Path, target: str, output: str) -> None:
    from fovea_api.bundle import MANIFEST
    from fovea_serving.bundle import load_bundle
    from fovea_serving.signature import SIGNATURE
    from fovea_store.images import push_bundle

    bundle = load_bundle(folder)
    files = [MANIFEST, *(entry.path for entry in bundle.manifest.files)]
    if (folder / SIGNATURE).is_file():
        files.append(SIGNATURE)
    total = sum((folder / name).stat().st_size for name in files)
    with bytes_progress("pushed", total) as sent:
        image = push_bundle(folder, files, bundle.digest, target, sent)
    if output == "json":
        print_json({"target": target, "image": image, "bundle": bundle.digest, "bytes": total})
        return
    click.echo(
        f"{bundle.digest} is pushed to {target} ({size_in_words(total)})\n"
        f"a ModelDeployment serves it by  model: {{uri: {image}}}"
    )
