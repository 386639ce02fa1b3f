"""The folder of captures: a folder for each day, in it each request under its id.

    2026-11-26/4f1c….json               what was answered, where the images are kept
    2026-11-26/4f1c…-0.jpg              such an image
    2026-11-26/answers/4f1c….json       what was answered, where they are not
    2026-11-26/…/4f1c…~pair.json        what candidate and stable said, where both were asked
    2026-11-26/…/4f1c…~label.json       what is right, once it is known

No id has a `~`, so no request can take the place of another's label. Answers without images are very many, and in a
folder of their own, which nobody lists. Whoever knows an id finds its request by asking each day, as many as the
retention has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from fovea_api.errors import CorruptData
from fovea_store import NotFound, StorePath
from pydantic import ValidationError

from fovea_serving.captures.records import Answered, AnsweredPair, Capture, Label

RECORD, LABEL, PAIR = ".json", "~label.json", "~pair.json"
ANSWERS = "answers"
"""Folder of a day's answers without images."""
MOST_RECORD_BYTES = 64 << 20
"""Largest record that is read: masks of large images are long."""
AT_ONCE = 8
"""Days that are asked at the same time."""
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class CaptureStore:
    """Captures of one deployment.

    Args:
        root: Their folder.
        retention: How long they are kept.
    """

    root: StorePath
    retention: timedelta

    def write(self, capture: Capture, images: Sequence[bytes]) -> None:
        """Keeps a request; `images`: the files of those that are kept. The record comes last: it is the commit."""
        folder = self.root / folder_of(capture)
        kept = [image.file for image in capture.images if image.file is not None]
        for name, content in zip(kept, images, strict=True):
            (folder / name).write_bytes(content)
        (folder / f"{capture.id}{RECORD}").write_text(capture.model_dump_json(by_alias=True, exclude_none=True))

    def label(self, found: Answered, label: Label) -> None:
        """Keeps a label, in place of an earlier one."""
        place = self.root / found.folder / f"{found.capture.id}{LABEL}"
        place.write_text(label.model_dump_json(by_alias=True, exclude_none=True))

    def pair(self, folder: str, request_id: str, pair: AnsweredPair) -> None:
        """Keeps what two versions said of a request."""
        place = self.root / folder / f"{request_id}{PAIR}"
        place.write_text(pair.model_dump_json(by_alias=True, exclude_none=True))

    def labelled(self, found: Answered) -> Answered:
        """The same with its label as the store has it now."""
        try:
            written = (self.root / found.folder / f"{found.capture.id}{LABEL}").read_bytes(MOST_RECORD_BYTES)
        except NotFound:
            return found
        return replace(found, label=Label.model_validate_json(written))

    def find_pair(self, found: Answered) -> AnsweredPair | None:
        """What two versions said of a request; None: only one was asked."""
        for folder in dict.fromkeys((found.folder, f"{day_of(found.capture.time)}/{ANSWERS}")):  # images may come later
            try:
                content = (self.root / folder / f"{found.capture.id}{PAIR}").read_bytes(MOST_RECORD_BYTES)
            except NotFound:
                continue
            return AnsweredPair.model_validate_json(content)
        return None

    def find(self, request_id: str) -> Answered | None:
        """The request of an id, the newest where there are several; None: none is kept under it."""
        days = sorted(self.days(), reverse=True)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(lambda day: self._read(day, request_id), days)
            return next((each for each in found if each is not None), None)

    def days(self) -> list[str]:
        """The days that have captures."""
        return [name for name in self.root.folders() if _DAY.fullmatch(name)]

    def all(self) -> Iterator[Answered]:
        """All captures with images, the oldest day first."""
        for day in sorted(self.days()):
            for name in sorted(self._names(day)):
                if not name.endswith(RECORD) or name.endswith((LABEL, PAIR)):
                    continue
                found = self._read(day, name.removesuffix(RECORD))
                if found is not None:
                    yield found

    def counts(self) -> dict[str, int]:
        """Captures with images, by whether they have a label: `some` or `none`; no record is opened."""
        counts = {"some": 0, "none": 0}
        for day in self.days():
            names = self._names(day)
            pictured = {name.rpartition("-")[0] for name in names if not name.endswith(RECORD)}
            labelled = {name.removesuffix(LABEL) for name in names if name.endswith(LABEL)}
            counts["some"] += len(pictured & labelled)
            counts["none"] += len(pictured - labelled)
        return counts

    def read_image(self, found: Answered, index: int) -> bytes:
        """The file of an image of a capture. Raises NotFound where it is not kept."""
        name = found.capture.images[index].file
        if name is None:
            raise NotFound("the image of this request is not kept", found.capture.id)
        return (self.root / found.folder / name).read_bytes()

    def delete(self, request_id: str) -> bool:
        """Deletes all that is kept under an id, of each day, as for a person who withdrew; whether there was anything.

        Images are found by their names: one whose record was not written, or was replaced, is no less of that person.
        """
        # a record is none of the images: `a-1.json` is that of the request `a-1`, as an image of a batch is called
        image, deleted = re.compile(rf"{re.escape(request_id)}-\d+\.(?!json$)\w+"), False
        for day in self.days():
            own = [self.root / day / name for name in self._names(day) if image.fullmatch(name)]
            for folder in (self.root / day, self.root / day / ANSWERS):
                own += [folder / f"{request_id}{suffix}" for suffix in (LABEL, PAIR, RECORD)]
            for place in own:
                if place.exists():
                    place.delete()
                    deleted = True
        return deleted

    def expire(self, now: datetime) -> int:
        """Deletes the days that are older than the retention; their number.

        A folder of that name in which no record of a capture can be read is not ours, and stays.
        """
        last = day_of(now - self.retention)
        old = [day for day in self.days() if day < last and self._holds_captures(day)]
        for day in old:
            (self.root / day).delete()
        return len(old)

    def _holds_captures(self, day: str) -> bool:
        """Whether a record of a day can be read."""
        for entry in (self.root / day).files(missing_ok=True):
            if entry.path.endswith(RECORD) and not entry.path.endswith((LABEL, PAIR)):
                with suppress(ValidationError, NotFound):
                    Capture.model_validate_json((self.root / day / entry.path).read_bytes(MOST_RECORD_BYTES))
                    return True
        return False

    def _names(self, day: str) -> set[str]:
        """The files of a day, without those being written; none where another gateway has deleted it meanwhile."""
        entries = (self.root / day).files(recursive=False, missing_ok=True)
        return {entry.path for entry in entries if not entry.path.endswith(".tmp")}

    def _read(self, day: str, request_id: str) -> Answered | None:
        for folder in (day, f"{day}/{ANSWERS}"):
            place = self.root / folder / f"{request_id}{RECORD}"
            try:
                capture = Capture.model_validate_json(place.read_bytes(MOST_RECORD_BYTES))
            except NotFound:
                continue
            except ValidationError as error:
                raise CorruptData(f"no capture: {error.error_count()} errors", place.uri, "delete it") from error
            return self.labelled(Answered(folder, capture))
        return None


def folder_of(capture: Capture) -> str:
    """The folder of a capture."""
    day = day_of(capture.time)
    return day if capture.has_images else f"{day}/{ANSWERS}"


def day_of(time: datetime) -> str:
    """The folder of a time, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d")
