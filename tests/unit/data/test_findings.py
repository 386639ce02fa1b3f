from __future__ import annotations

from pathlib import Path

import pytest
from dataset_support import Build, detection
from fovea_api.errors import InvalidInput
from fovea_api.version import Severity
from fovea_trainer.data.findings import FindingKind


def spoil(voc: Path, count: int) -> None:
    """Cuts off the first images of a folder of 24."""
    for file in sorted((voc / "JPEGImages").iterdir())[:count]:
        file.write_bytes(file.read_bytes()[:500])


def test_every_kind_says_what_it_means_and_what_to_do() -> None:
    for kind in FindingKind:
        assert all(text.strip() for text in (kind.heading, kind.done, kind.meaning, kind.remedy)), kind
    assert len({kind.heading for kind in FindingKind}) == len(FindingKind)


@pytest.mark.parametrize(("broken", "share", "built"), [(2, None, True), (3, None, False), (3, 0.125, True),
                                                        (1, 0.01, True), (1, 0, False)])  # fmt: skip
def test_a_build_fails_from_a_share_of_faulty_images_on(
    build: Build, voc: Path, broken: int, share: float | None, built: bool
) -> None:
    spoil(voc, broken)
    spec = detection(voc, quality={} if share is None else {"maxFaultyImages": share})
    if built:
        assert build(spec).summary.images == 24 - broken
        return
    with pytest.raises(InvalidInput, match=rf"{broken} of 24 images are faulty.*BloodImage_00000.jpg") as error:
        build(spec)
    assert error.value.location == "spec.quality.maxFaultyImages"


def test_findings_reach_summary_and_report(build: Build, voc: Path) -> None:
    spoil(voc, 2)
    result = build(detection(voc, quality={"maxFaultyImages": 0.5}))
    (finding,) = [one for one in result.summary.findings if one.kind == "CorruptImage"]
    assert (finding.count, finding.severity) == (2, Severity.WARNING)
    assert finding.message.startswith("lab: JPEGImages/BloodImage_00000.jpg: ")
    page = Path(result.report).read_text()
    for text in (FindingKind.CORRUPT_IMAGE.meaning, FindingKind.CORRUPT_IMAGE.remedy, "BloodImage_00001.jpg"):
        assert text in page


def test_a_warning_about_many_images_is_serious(build: Build, voc: Path) -> None:
    result = build(detection(voc, classes=["WBC", "Platelets"]))
    unknown = result.summary.findings[0]
    assert (unknown.kind, unknown.severity) == ("UnknownClass", Severity.SERIOUS), "RBC is in every image"
