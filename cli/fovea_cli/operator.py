"""`fovea operator`: the operator's process."""

from __future__ import annotations

import click
from fovea_api.errors import InvalidInput


@click.command("operator")
def command() -> None:
    """Runs the operator; its settings are FOVEA_* variables (docs/operator.md)."""
    from fovea_operator.main import main
    from kubernetes.aio.config import ConfigException

    try:
        raise SystemExit(main())
    except ConfigException as error:
        raise InvalidInput(f"no cluster is known: {error}", None, "set KUBECONFIG") from error
