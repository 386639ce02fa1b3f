"""`fovea operator`: the operator's process."""

from __future__ import annotations

import click


@click.command("operator")
def command() -> None:
    """Runs the operator; its settings are FOVEA_* variables (docs/operator.md)."""
    from fovea_operator.main import main

    raise SystemExit(main())
