"""`fovea triton`: what a pod of the runtime Triton starts."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("triton", context_settings={"ignore_unknown_options": True})
@click.argument("bundle")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- TRITONSERVER-ARGUMENTS...]")
@click.option(
    "--repository",
    default="model-repository",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the model repository; the model in it is replaced.",
)
@click.option(
    "--precision", type=click.Choice(["FP32", "INT8"]), help="Which form.  [default: the bundle's own choice]"
)
@click.option("--inference", default="{}", help="spec.inference of the ModelDeployment, as JSON.")
@click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    type=click.Choice(["onnxruntime", "tensorrt", "python"]),
    envvar="FOVEA_TRITON_BACKEND",
    help="Triton's backend that runs the model; FOVEA_TRITON_BACKEND. The wheel of PyPI has python alone; "
    "tensorrt takes the engine that was built for this machine, beside the bundle.",
)
@click.option("--instances", default=1, show_default=True, type=click.IntRange(1, 64), help="Copies that run at once.")
@click.option("--store-credentials", envvar="FOVEA_STORE_CREDENTIALS", help="Folder of the store's credentials.")
@click.option(
    "--public-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public key (PEM) of whoever must have signed the bundle.  [default: it need not be signed]",
)
@click.option("--write-only", is_flag=True, help="Write the repository and end: for a server in another container.")
def command(
    bundle: str,
    arguments: tuple[str, ...],
    repository: Path,
    precision: str | None,
    inference: str,
    backend: str,
    instances: int,
    store_credentials: str | None,
    public_key: Path | None,
    write_only: bool,
) -> None:
    """Writes a model repository from a BUNDLE (a URI or a folder) and becomes the tritonserver that serves it."""
    from fovea_api.errors import InvalidManifest
    from fovea_api.modeldeployment import Inference
    from fovea_serving.runtimes.triton import TritonBackend, TritonOptions, prepare, serve
    from pydantic import ValidationError

    try:
        parsed = Inference.model_validate_json(inference)
    except ValidationError as error:
        raise InvalidManifest.from_validation(error, "--inference") from error
    options = TritonOptions(TritonBackend(backend), precision, parsed, instances)
    prepare(bundle, repository, options, store_credentials, public_key)
    if not write_only:
        serve(repository, arguments)
