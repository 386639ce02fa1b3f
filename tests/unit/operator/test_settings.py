"""Settings: flags before variables before defaults, each documented."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from fovea_api.errors import InvalidInput
from fovea_operator.metrics import Metrics
from fovea_operator.settings import Settings

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "operator.md").read_text()


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_default() -> None:
    environ = {
        "FOVEA_OPERATOR_WORKERS": "3",
        "FOVEA_OPERATOR_STORE": "s3://a",
        "FOVEA_OPERATOR_LEADER_ELECTION": "false",
    }
    found = Settings.read(["--workers=5"], environ)
    assert (found.workers, found.store, found.leader_election, found.port) == (5, "s3://a", False, 8080)


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(InvalidInput, match="FOVEA_OPERATOR_WORKERS"):
        Settings.read([], {"FOVEA_OPERATOR_WORKERS": "many"})


def test_the_page_has_every_setting_with_its_default_and_meaning() -> None:
    for item in fields(Settings):
        default = item.default if item.default != "" else "(empty)"
        assert f"| `{item.name}` | `{default}` | {item.metadata['help']} |" in PAGE


def test_the_page_has_every_metric() -> None:
    for family in Metrics().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"`{name}`" in PAGE
