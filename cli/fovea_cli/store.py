"""`fovea store`: what takes the space of a store, and freeing what nobody needs."""

from __future__ import annotations

import click

from fovea_cli.output import output_option, print_json, print_table
from fovea_cli.progress import size_in_words


@click.group("store")
def command() -> None:
    """Shows and frees the space of a store."""


@command.command("ls")
@click.argument("store", default="fovea-store")
@output_option
def ls(store: str, output: str) -> None:
    """Shows what takes the space of a STORE (folder or URI; absent: fovea-store, here), and what `gc` would free."""
    from fovea_store import StorePath
    from fovea_trainer.inventory import artifacts, garbage, recorded, size_of

    root = StorePath.parse(store)
    total, kept, frames, free = size_of(root), artifacts(root), recorded(root), garbage(root)
    if output == "json":
        print_json(
            {
                "bytes": total,
                "artifacts": [each.to_dict() for each in kept],
                "recordings": [each.to_dict() for each in frames],
                "garbage": [each.to_dict() for each in free],
            }
        )
        return
    shown = root.uri.rstrip("/") + "/"
    rows = [(size_in_words(each.bytes), each.uri.removeprefix(shown), each.summary) for each in kept]
    rows += [
        (size_in_words(each.bytes), each.place.uri.removeprefix(shown), f"{each.frames:,} recorded frames")
        for each in frames
    ]
    rows += [(size_in_words(each.bytes), each.place.uri.removeprefix(shown), f"FREE: {each.why}") for each in free]
    rest = total - sum(each.bytes for each in kept) - sum(each.bytes for each in frames)
    rest -= sum(each.bytes for each in free)
    rows += [(size_in_words(rest), "", "results, logs, curves"), (size_in_words(total), "", "in all")]
    print_table(rows, ("SIZE", "PATH", "WHAT"))


@command.command("gc")
@click.argument("store", default="fovea-store")
@click.option("--dry-run", is_flag=True, help="Say what would be freed, and free nothing.")
@output_option
def gc(store: str, dry_run: bool, output: str) -> None:
    """Frees what nobody needs of a STORE (folder or URI; absent: fovea-store, here).

    That is checkpoints and intermediate files of finished runs, engines of models that are gone, and what runs that
    broke off left over a day ago.
    Dataset versions, recorded frames, bundles, reports and logs stay; a Dataset's retainVersions and deletionPolicy are
    about these.
    """
    from fovea_store import StorePath
    from fovea_trainer.inventory import garbage

    free = garbage(StorePath.parse(store))
    if not dry_run:
        for each in free:
            each.place.delete()
    freed = sum(each.bytes for each in free)
    if output == "json":
        print_json({"freed": freed, "dryRun": dry_run, "garbage": [each.to_dict() for each in free]})
        return
    for each in free:
        click.echo(f"{size_in_words(each.bytes):>10}  {each.place}  ({each.why})")
    click.echo(f"{size_in_words(freed)} {'can be freed' if dry_run else 'freed'}")
