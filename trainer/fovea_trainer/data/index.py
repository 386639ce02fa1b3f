"""What a build knows about each image, in a SQLite file of the work folder: memory stays bounded, and SQL sorts."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fovea_api.version import Severity

from fovea_trainer.data.findings import KINDS, RANK, Finding, FindingKind, Tally
from fovea_trainer.data.read import Checked, Content, OpenSource
from fovea_trainer.data.records import FileImage, ImageRef, RawImage
from fovea_trainer.data.text import writable
from fovea_trainer.data.unused import Unused, unused_finding

KEPT_FINDINGS = 500
"""Findings of a kind that are kept for the report; all are counted."""
SHOWN_NAMES = 10
"""Names of classes that a finding lists."""


class Index:
    """What is known about each image, in a file: memory stays bounded, and SQL sorts."""

    def __init__(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        self.file = file
        self.counts: Counter[FindingKind] = Counter()
        self.images: Counter[FindingKind] = Counter()
        """Images that have a finding of a kind."""
        self.subjects: dict[FindingKind, Counter[str]] = defaultdict(Counter)
        self.named: dict[str, dict[str, str]] = {}
        """By file, the classes that it names, and what they are called in the version."""
        self.read, self.faulty = 0, 0
        """Images that were read, and those of them that have a finding of a faulty kind."""
        self.db = sqlite3.connect(file)
        self.db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE items (id INTEGER PRIMARY KEY, digest TEXT, source INT, name TEXT, hint TEXT,"
            " image TEXT, width INT, height INT, thumbnail BLOB, content TEXT, classes TEXT,"
            " split TEXT, grp TEXT, predicted INT);"
            "CREATE TABLE waiting (digest TEXT, source INT, name TEXT, hint TEXT, image TEXT, width INT, height INT,"
            " thumbnail BLOB, grp TEXT, known INT);"
            "CREATE TABLE bound (digest TEXT PRIMARY KEY, grp TEXT);"
            "CREATE TABLE findings (kind TEXT, place TEXT, message TEXT, remedy TEXT);"
        )
        self.names: set[str] = set()

    def close(self) -> None:
        self.db.close()

    def commit(self) -> None:
        self.db.execute("CREATE INDEX IF NOT EXISTS by_digest ON items (digest, source, name)")
        self.db.execute("CREATE INDEX IF NOT EXISTS waiting_by_digest ON waiting (digest, source, name)")
        self.db.commit()

    def add(self, source: int, item: Checked, source_name: str) -> None:
        kinds = {finding.kind for finding in item.findings}
        self.read += 1
        self.faulty += any(kind.faulty for kind in kinds)
        self.images.update(kinds)
        for finding in item.findings:
            self.add_finding(replace(finding, place=f"{source_name}: {finding.place}"))
        image = item.image
        fields = [image.path] if isinstance(image, FileImage) else list(asdict(image).values())
        if item.waiting:
            known = FindingKind.UNLABELLED in kinds
            of_image = (item.width, item.height, item.thumbnail, item.group)
            values = (item.waiting, source, item.name, item.split, json.dumps(fields), *of_image, known)
            self.db.execute("INSERT INTO waiting VALUES (?,?,?,?,?,?,?,?,?,?)", values)
        if item.digest:
            self.names.update(item.classes)
            self.db.execute(
                "INSERT INTO items VALUES (NULL,?,?,?,?,?,?,?,?,?,?,NULL,?,0)",
                (
                    *(
                        item.digest,
                        source,
                        item.name,
                        item.split,
                        json.dumps(fields),
                        item.width,
                        item.height,
                    ),
                    *(item.thumbnail, item.content.to_json(), json.dumps(item.classes), item.group),
                ),
            )

    def add_source_finding(self, finding: Finding) -> None:
        """Adds what is wrong with a source; of a faulty kind it stands for an image that could not even be read."""
        if finding.kind.faulty:
            self.read, self.faulty = self.read + 1, self.faulty + 1
            self.images[finding.kind] += 1
        self.add_finding(finding)

    def add_unused(self, source_name: str, unused: Sequence[Unused]) -> None:
        """Adds one finding about all files of a source that were not used."""
        if unused:
            finding = unused_finding(unused)
            self.images[finding.kind] += sum(len(each.paths) for each in unused if not each.harmless)
            self.add_finding(replace(finding, place=f"{source_name}: {finding.place}"))

    def add_only_named(self) -> None:
        """Adds one finding a file about the classes that it names and no label has."""
        for place, classes in self.named.items():
            only = [raw for raw, name in classes.items() if name and name not in self.names]
            if only:
                shown = ", ".join(only[:SHOWN_NAMES]) + (", …" if len(only) > SHOWN_NAMES else "")
                message = f"{len(only)} of {len(classes)} classes that are named here have no label: {shown}"
                self.add_finding(Finding(FindingKind.CLASS_ONLY_NAMED, place, message))

    def add_predicted(self, image: Waiting, content: Content, classes: Sequence[str]) -> None:
        """Gives an image that waits the label that a model has predicted."""
        self.names.update(classes)
        self.db.execute(
            "INSERT INTO items SELECT NULL, digest, source, name, hint, image, width, height, thumbnail, ?, ?, NULL,"
            " grp, 1 FROM waiting WHERE digest = ? AND source = ? AND name = ?",
            (content.to_json(), json.dumps(classes), image.digest, image.source, image.name),
        )

    def bind(self, groups: Mapping[str, str]) -> None:
        """Binds images to groups, by their digests, whatever source they come back in."""
        self.db.executemany("INSERT OR REPLACE INTO bound VALUES (?,?)", groups.items())

    def add_waiting(self, sources: Sequence[OpenSource], exported: Mapping[str, str]) -> None:
        """Adds a finding for each image that waits for a label, unless its source was faulted for having none.

        Args:
            sources: All sources.
            exported: By digest, where an image was exported for review.
        """
        for each in self.waiting():
            place = exported.get(each.digest)
            if place is not None or not each.known:
                words = "nobody has labelled the image" if place is None else f"it waits for review in {place}"
                self.images[FindingKind.WAITS_FOR_LABEL] += 1
                self.add_finding(
                    Finding(FindingKind.WAITS_FOR_LABEL, f"{sources[each.source].name}: {each.name}", words)
                )

    def waiting(self) -> Iterator[Waiting]:
        """The images that no source has a label of, each once, by source and name."""
        query = (
            "SELECT digest, source, name, image, width, height, grp, known FROM waiting w"
            " WHERE NOT EXISTS (SELECT 1 FROM items i WHERE i.digest = w.digest)"
            " AND NOT EXISTS (SELECT 1 FROM waiting o"
            " WHERE o.digest = w.digest AND (o.source, o.name) < (w.source, w.name)) ORDER BY source, name"
        )
        for digest, source, name, image, width, height, group, known in self.db.execute(query).fetchall():
            yield Waiting(digest, source, name, _image_ref(image), width, height, group, bool(known))

    def add_finding(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        if finding.subject:
            self.subjects[finding.kind][finding.subject] += 1
        if self.counts[finding.kind] <= 100 * KEPT_FINDINGS:
            words = map(writable, (finding.place, finding.message, finding.remedy))
            self.db.execute("INSERT INTO findings VALUES (?,?,?,?)", (finding.kind, *words))

    def findings(self, kinds: Sequence[FindingKind]) -> list[Finding]:
        """Findings of these kinds, sorted, so that they do not depend on the order of the workers."""
        marks = ",".join("?" * len(kinds))
        rows = self.db.execute(
            f"SELECT * FROM findings WHERE kind IN ({marks}) ORDER BY place, message, kind LIMIT ?",
            (*kinds, KEPT_FINDINGS),
        )
        return [Finding(KINDS[kind], place, message, remedy) for kind, place, message, remedy in rows]

    def tallies(self, allowed: float) -> tuple[Tally, ...]:
        """All findings by kind, the worst first. A warning about more than this share of the images is Serious."""
        tallies = []
        for kind, count in self.counts.items():
            images = self.images[kind]
            subjects = tuple(sorted(self.subjects[kind].items(), key=lambda item: (-item[1], item[0])))
            often = kind.severity is Severity.WARNING and images > allowed * self.read
            severity = Severity.SERIOUS if often else kind.severity
            tallies.append(Tally(kind, severity, count, images, tuple(self.findings((kind,))), subjects))
        return tuple(sorted(tallies, key=lambda tally: (RANK[tally.severity], tally.kind)))

    def leave_out_unlabelled_splits(self, sources: Sequence[OpenSource]) -> None:
        """Leaves out the splits of a source that show nothing while others do: test sets come without labels.

        Where an image without labels counts as one that shows no object they would be taught, or measured, as such.
        """
        query = "SELECT source, hint, SUM(classes != '[]') FROM items WHERE hint IS NOT NULL GROUP BY source, hint"
        shown = {(source, hint): count for source, hint, count in self.db.execute(query)}
        labelled = {source for (source, _), count in shown.items() if count}
        for source, hint in [key for key, count in shown.items() if not count and key[0] in labelled]:
            query = "DELETE FROM items WHERE source = ? AND hint = ? RETURNING name"
            for (name,) in self.db.execute(query, (source, hint)).fetchall():
                message = f"no image of {hint} has a label, so that it counts as unlabelled"
                self.images[FindingKind.UNLABELLED] += 1
                self.add_finding(Finding(FindingKind.UNLABELLED, f"{sources[source].name}: {name}", message))

    def name_of(self, number: int, sources: Sequence[OpenSource]) -> str:
        """An image as findings name it: its source and its name."""
        source, name = self.db.execute("SELECT source, name FROM items WHERE id = ?", (number,)).fetchone()
        return f"{sources[source].name}: {name}"

    def any(self) -> bool:
        return self.db.execute("SELECT 1 FROM items LIMIT 1").fetchone() is not None

    def classes(self) -> list[str]:
        return sorted(self.names)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An image that waits for a label."""

    digest: str
    source: int
    name: str
    image: ImageRef
    width: int
    height: int
    group: str
    known: bool
    """Whether a finding says that it has no label."""


@dataclass(frozen=True, slots=True)
class Row:
    """An image of the version to be written."""

    digest: str
    source: int
    name: str
    image: ImageRef
    width: int
    height: int
    content: Content
    group: str
    split: str
    predicted: bool
    """Whether a model has predicted its labels."""

    def labels(self, classes: Sequence[str]) -> list[int]:
        """Class index of each annotation: of the image, of each box, or of each class that the mask shows."""
        if self.content.label is not None:
            return [classes.index(self.content.label)]
        if self.content.mask is not None:
            return [index for index, _ in self.content.pixels]
        if self.content.regions:
            return sorted({classes.index(region.name) for region in self.content.regions if region.name})
        return [classes.index(box[0]) for box in self.content.boxes]

    def boxes(self) -> list[list[float]]:
        return [list(box[1:5]) for box in self.content.boxes]

    def fingerprint(self, classes: Sequence[str], source: str) -> bytes:
        """Canonical text of all that training sees of the image."""
        return json.dumps(
            [
                *(self.digest, self.split, source, self.name, self.group, self.width, self.height),
                *(self.labels(classes), self.boxes(), [box[5] for box in self.content.boxes]),
                *(self.content.mask_digest, [[r.name, r.polygons, r.runs] for r in self.content.regions]),
                *([self.content.masks] if self.content.masks else []),
                *(["predicted"] if self.predicted else []),
            ],
            separators=(",", ":"),
        ).encode()


COLUMNS = "digest, source, name, image, width, height, content, grp, split, predicted"


def rows(db: sqlite3.Connection, where: str = "1", values: Sequence[object] = ()) -> Iterator[Row]:
    """Rows that are in a split, sorted by digest."""
    query = f"SELECT {COLUMNS} FROM items WHERE split IS NOT NULL AND {where} ORDER BY digest"
    for digest, source, name, image, width, height, content, group, split, predicted in db.execute(
        query, tuple(values)
    ):
        yield Row(
            digest,
            source,
            name,
            _image_ref(image),
            width,
            height,
            Content.from_json(content),
            group,
            split,
            bool(predicted),
        )


def _image_ref(text: str) -> ImageRef:
    fields = json.loads(text)
    return FileImage(*fields) if len(fields) == 1 else RawImage(*fields)
