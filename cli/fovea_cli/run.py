"""`fovea run`: what the pods of a run execute."""

from __future__ import annotations

import sys

import click


@click.command("run", hidden=True)
@click.option("--check-store", is_flag=True, help="Only make sure that the store belongs to the run's owner.")
def command(check_store: bool) -> None:
    """Executes the run that the environment describes (FOVEA_RUN and others); used in the pods of a run."""
    from fovea_trainer.run import main

    sys.exit(main(only_check=check_store))
