"""Reasons that come from outside."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from fovea_operator.conditions import conditions, progressing, stalled


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("FailedCreate", "FailedCreate"),
        ("Pods denied: image not signed!", "PodsDeniedImageNotSigned"),
        ("403", "Unknown"),
        ("", "Unknown"),
        ("2 pods left", "PodsLeft"),
        ("Ünsigned", "Nsigned"),
        ("a" * 2000, "A" + "a" * 127),
    ],
)
def test_any_text_becomes_a_reason_that_a_condition_takes(given: str, reason: str) -> None:
    for assessment in (progressing(given, ""), stalled(given, "")):
        assert conditions(assessment, (), 1, datetime.now(UTC))[0].reason == reason
