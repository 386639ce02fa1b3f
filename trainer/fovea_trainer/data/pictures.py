"""The images that a version's report shows: samples of every class, and near duplicates."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

from fovea_trainer.data import report
from fovea_trainer.data.draft import Draft
from fovea_trainer.data.index import Index, rows
from fovea_trainer.data.read import OpenSource, image_bytes
from fovea_trainer.data.records import FileImage, RawImage
from fovea_trainer.data.shards import record


def sample_digests(draft: Draft, index: Index) -> list[str]:
    """Images to be shown: for each class in turn the first that shows it, by digest (as good as random)."""
    shown: list[str] = []
    for name in itertools.islice(itertools.cycle(draft.classes), 4 * report.SHOWN_SAMPLES):
        query = "SELECT digest FROM items WHERE split IS NOT NULL AND instr(classes, ?) ORDER BY digest LIMIT ?"
        for (digest,) in index.db.execute(query, (json.dumps(name), report.SHOWN_SAMPLES)):
            if digest not in shown:
                shown.append(digest)
                break
        if len(shown) >= report.SHOWN_SAMPLES:
            break
    return shown


def pictures(draft: Draft, sources: Sequence[OpenSource], index: Index, digests: Sequence[str]) -> list[report.Picture]:
    """Images with all that is drawn on them."""
    shown: list[report.Picture] = []
    for digest in digests:
        for row in rows(index.db, "digest = ?", (digest,)):
            stored = record(row, sources, draft.classes)
            shown.append(
                report.Picture(
                    name=row.name,
                    split=row.split,
                    image=image_bytes(sources[row.source].tree, row.image),
                    label=row.content.label,
                    boxes=row.boxes(),
                    labels=row.labels(draft.classes) if row.content.boxes else [],
                    masks=[counts.encode() for counts in row.content.masks],
                    mask=mask if isinstance(mask := stored["mask"], bytes) else None,
                )
            )
    return shown


def pair_pictures(
    draft: Draft, sources: Sequence[OpenSource], index: Index
) -> list[tuple[report.Picture, report.Picture]]:
    """Near duplicates, those in different splits first."""
    pairs = []
    for first, second in draft.alike:
        # A train image that left its split has no row any more, but is worth seeing.
        both = [_any_picture(sources, index, digest) for digest in (first, second)]
        pairs.append((both[0], both[1]))
    return pairs


def _any_picture(sources: Sequence[OpenSource], index: Index, digest: str) -> report.Picture:
    query = "SELECT source, name, image, split FROM items WHERE digest = ? ORDER BY source, name LIMIT 1"
    source, name, image, split = index.db.execute(query, (digest,)).fetchone()
    ref = json.loads(image)
    data = image_bytes(sources[source].tree, FileImage(*ref) if len(ref) == 1 else RawImage(*ref))
    return report.Picture(name=name, split=split or "left out", image=data)
