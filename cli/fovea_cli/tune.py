"""`fovea tune`: the Dataset and TuningSweep of a manifest, on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from fovea_cli.manifest import manifest_options, sources_of
from fovea_cli.output import output_option, print_json, print_table


@click.command("tune")
@manifest_options
@click.option("--ray", is_flag=True, help="Train several trials at a time on Ray (of this machine, or of RAY_ADDRESS).")
@output_option
def command(
    file: Path,
    store: str,
    adopt: str,
    source: tuple[str, ...],
    name: str | None,
    settings: tuple[str, ...],
    ray: bool,
    output: str,
) -> None:
    """Builds the dataset version and makes the trials of a manifest's TuningSweep, as the cluster would.

    Trials that the store holds stay; after Ctrl-C or a crash the same command goes on.
    Ends with 0 if a trial keeps all limits, with 1 if none does, too many failed or the budget was too small.
    """
    from fovea_trainer.local import tune_manifest
    from fovea_trainer.tuning.table import LiveTable

    with LiveTable() as reporter:
        result = tune_manifest(
            file,
            store,
            ray=ray,
            name=name,
            sources=sources_of(source),
            settings=settings,
            reporter=reporter,
            adopt=adopt,
        )
    if output == "json":
        print_json(result.to_dict())
        return
    sweep = result.sweep
    assert sweep is not None
    assert sweep.best is not None
    shown = {each.trial: each for each in (sweep.best, *([sweep.knee] if sweep.knee else []), *sweep.pareto)}
    metrics = list(sweep.best.metrics)
    rows = [
        (
            each.trial,
            *(f"{each.metrics[metric]:.4g}" for metric in metrics),
            "best" if each == sweep.best else "knee" if each == sweep.knee else "",
            ", ".join(f"{path}={value:.4g}" if isinstance(value, float) else f"{path}={value}"
                      for path, value in each.parameters.items()),
        )
        for each in shown.values()
    ]  # fmt: skip
    print_table(rows, ("TRIAL", *metrics, "", "VALUES"))
    counts = sweep.trials
    click.echo(
        f"\n{counts.succeeded} trained to the end, {counts.stopped_early} stopped early, {counts.failed} failed; "
        f"{sweep.epochs} epochs in {sweep.seconds:.0f} s\nsweep   {result.artifact}\nreport  {result.report}"
    )
