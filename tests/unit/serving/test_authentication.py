"""API keys from files. Tokens are reviewed by a real API server: tests/controlplane/test_gateway.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from fovea_serving.gateway.authentication import KEYS_SECONDS, ApiKeys, Unauthenticated
from fovea_serving.upstreams import UpstreamUnavailable


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder as the kubelet mounts a Secret: names are links into a folder that is exchanged as a whole."""
    write_secret(tmp_path, {"lab": "key-of-the-lab\n", "clinic": "key-of-the-clinic"})
    return tmp_path


def write_secret(folder: Path, keys: dict[str, str]) -> None:
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir()
    for name, key in keys.items():
        (version / name).write_text(key)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(version / name)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer key-of-the-lab"},
        {"authorization": "bearer key-of-the-clinic"},
        {"x-api-key": "key-of-the-lab"},
    ],
)
async def test_a_key_opens_by_either_header(secret: Path, headers: dict[str, str]) -> None:
    await ApiKeys(secret).check(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer key-of-the-la"},
        {"authorization": "Basic key-of-the-lab"},
        {"x-api-key": "key-of-the-lab\n "},
        {"x-api-key": ""},
    ],
)
async def test_nothing_else_does(secret: Path, headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated):
        await ApiKeys(secret).check(headers)


async def test_a_changed_secret_is_read_again(secret: Path) -> None:
    clock = Clock()
    keys = ApiKeys(secret, clock)
    await keys.check({"x-api-key": "key-of-the-lab"})
    write_secret(secret, {"lab": "another"})
    await keys.check({"x-api-key": "key-of-the-lab"})
    clock.now += KEYS_SECONDS
    await keys.check({"x-api-key": "another"})
    with pytest.raises(Unauthenticated):
        await keys.check({"x-api-key": "key-of-the-lab"})


async def test_a_key_that_is_taken_out_while_one_reads_hinders_no_other(secret: Path) -> None:
    (secret / "gone").symlink_to(secret / "..0/gone")
    await ApiKeys(secret).check({"x-api-key": "key-of-the-lab"})


async def test_a_key_that_is_no_text_hinders_no_other(secret: Path) -> None:
    (secret / "binary").write_bytes(b"\xff")
    await ApiKeys(secret).check({"x-api-key": "key-of-the-lab"})


async def test_an_empty_secret_opens_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UpstreamUnavailable, match="no API key"):
        await ApiKeys(tmp_path).check({"x-api-key": ""})
