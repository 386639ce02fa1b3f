"""Predictions of a bundle for many image files, as one Parquet file; what was interrupted goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fovea_api.errors import InvalidInput
from pydantic import JsonValue

from fovea_serving.bundle import load_bundle
from fovea_serving.pipeline import decode
from fovea_serving.pipeline.decode import InvalidImage
from fovea_serving.predict import images_of
from fovea_serving.predictor import Image, Predictor

PART_FILES = 256
"""Files of a part: what an interruption costs at most."""
FILES_AT_ONCE = 16
"""Image files in memory at the same time."""
DIGEST = b"fovea.bundle"
"""Metadata of the Parquet file: the digest of the bundle that predicted."""

_MASK = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
_OBJECT = pa.struct([("class", pa.string()), ("score", pa.float32()), ("box", pa.list_(pa.float32()))])
_CLASS = pa.struct([("class", pa.string()), ("score", pa.float32()), ("pixels", pa.int64()), ("mask", _MASK)])
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("objects", pa.list_(_OBJECT)),
        ("classes", pa.list_(_CLASS)),
        ("error", pa.string()),
    ]
)
"""A row for each file: its size in pixels, what `Prediction.to_dict` says of it, or why it has no prediction."""


def predict_to_parquet(
    bundle: Path | str,
    paths: Sequence[Path],
    target: Path,
    *,
    confidence: float | None = None,
    overlapping: bool = False,
    format_: str | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> int:
    """Writes a row for each image file, those in the folders given included; gives the number of rows.

    Finished parts lie in `TARGET.parts` until all is done: the same call goes on after them. An image that cannot be
    read is a row with its error.

    Args:
        bundle: Local directory of the bundle; its digests are verified.
        paths: Image files and folders.
        target: The Parquet file.
        confidence: Smallest score of an object, 0 to 1; None: the bundle's own threshold.
        overlapping: Whether one object may be reported as several classes.
        format_: The format of the model that predicts; None: the ONNX model that is served.
        progress: Called with the number of files that were done, those of an earlier call first.

    Raises:
        InvalidBundle, CorruptBundle: the bundle cannot be used.
        InvalidInput: there is no image, or parts of another bundle or threshold lie there.
    """
    verified = load_bundle(bundle)
    predictor = Predictor.from_bundle(verified, format_=format_)
    if confidence is not None:
        predictor.postprocess = replace(predictor.postprocess, confidence_threshold=confidence)
    files = images_of(paths)
    parts = target.with_name(f"{target.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    how = f"{verified.digest} {predictor.postprocess.confidence_threshold:g} {overlapping}".encode()
    if format_ is not None:
        how += f" {format_}".encode()
    schema = SCHEMA.with_metadata({DIGEST: how})
    done = set(_done(parts, how))
    progress(len(done))
    rest = [file for file in files if str(file) not in done]
    number = len(list(parts.glob("*.parquet")))
    for start in range(0, len(rest), PART_FILES):
        rows: list[dict[str, JsonValue]] = []
        part = rest[start : start + PART_FILES]
        for first in range(0, len(part), FILES_AT_ONCE):
            group = part[first : first + FILES_AT_ONCE]
            rows += _rows(predictor, group, verified.manifest.classes, overlapping)
            progress(len(group))
        unfinished = parts / f"{number:06}.unfinished"
        pq.write_table(pa.Table.from_pylist(rows, schema), unfinished)
        unfinished.rename(parts / f"{number:06}.parquet")
        number += 1
    unfinished = parts / "all.unfinished"
    count = 0
    with pq.ParquetWriter(unfinished, schema) as writer:
        for file in sorted(parts.glob("*.parquet")):
            table = pq.read_table(file)
            writer.write_table(table.cast(schema))
            count += len(table)
    unfinished.replace(target)
    shutil.rmtree(parts)
    return count


def _done(parts: Path, how: bytes) -> Iterator[str]:
    """Paths that finished parts hold. Raises InvalidInput where these were made in another way."""
    for file in sorted(parts.glob("*.parquet")):
        table = pq.read_table(file, columns=["path"])
        if (table.schema.metadata or {}).get(DIGEST) != how:
            remedy = f"use the same bundle and options, or remove {parts}"
            raise InvalidInput("earlier results are of another bundle, or with other options", str(file), remedy)
        yield from table["path"].to_pylist()


def _rows(
    predictor: Predictor, files: Sequence[Path], classes: Sequence[str], overlapping: bool
) -> list[dict[str, JsonValue]]:
    images: dict[Path, Image] = {}
    rows: dict[Path, dict[str, JsonValue]] = {}
    for file in files:
        try:
            images[file] = decode(file.read_bytes(), str(file))
        except InvalidImage as error:
            rows[file] = {"path": str(file), "error": str(error)}
    for file, prediction in zip(images, predictor.predict(list(images.values()), overlapping=overlapping), strict=True):
        height, width = images[file].shape[:2]
        size: dict[str, JsonValue] = {"path": str(file), "width": width, "height": height}
        rows[file] = size | prediction.to_dict(classes, masks=True)
    return [rows[file] for file in files]
