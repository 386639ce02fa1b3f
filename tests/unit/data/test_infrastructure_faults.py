"""Infrastructure faults: they are distinguished from those of the work, wherever they are met, and the run goes on."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from fovea_api.errors import CorruptData, InvalidInput, Retryable
from fovea_store import AccessDenied, NotFound, StoreFull, StorePath, StoreUnavailable
from fovea_store.errors import explained
from fovea_trainer.run import failure
from fovea_trainer.training.state import CheckpointNotSaved, State

FULL = Path("/dev/full")
"""A device that is always full."""


def raised(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def wrapped(error: BaseException) -> BaseException:
    """An error as libraries pass it on."""

    def fail() -> None:
        try:
            raise error
        except BaseException as cause:
            raise RuntimeError("the library could not do it") from cause

    return raised(fail)


def arrow_fills_the_disk() -> None:
    with pa.OSFile(str(FULL), "wb") as file:
        file.write(b"0" * 1_000_000)


def torch_fills_the_disk() -> None:
    with FULL.open("wb", buffering=0) as file:
        torch.save({"weights": torch.zeros(1_000_000)}, file)


def aws(code: str) -> OSError:
    return OSError(f"When reading information for key 'x' in bucket 'b': AWS Error {code} during HeadObject operation")


FAULTS: dict[str, tuple[Callable[[], BaseException], str]] = {
    "a full disk": (lambda: raised(lambda: FULL.write_bytes(b"x")), "StoreFull"),
    "a disk that arrow fills": (lambda: raised(arrow_fills_the_disk), "StoreFull"),
    "a disk that torch fills": (lambda: raised(torch_fills_the_disk), "StoreFull"),
    "an index that fills the disk": (lambda: sqlite3.OperationalError("database or disk is full"), "StoreFull"),
    "a quota": (lambda: OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/claim"), "StoreFull"),
    "a file server that is away": (
        lambda: OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/claim"),
        "StoreUnavailable",
    ),
    "a disk that fails": (lambda: OSError(errno.EIO, os.strerror(errno.EIO), "/claim"), "StoreUnavailable"),
    "a rotated key": (lambda: aws("INVALID_ACCESS_KEY_ID"), "AccessDenied"),
    "another secret": (lambda: aws("SIGNATURE_DOES_NOT_MATCH"), "AccessDenied"),
    "an expired token": (
        lambda: aws("UNKNOWN (HTTP status 400): Unable to parse ExceptionName: ExpiredToken"),
        "AccessDenied",
    ),
    "no right": (lambda: aws("ACCESS_DENIED"), "AccessDenied"),
    "a full store": (lambda: aws("UNKNOWN (HTTP status 507): XMinioStorageFull"), "StoreFull"),
    "a store that is away": (lambda: aws("NETWORK_CONNECTION"), "StoreUnavailable"),
}


@pytest.mark.parametrize("passed_on", [False, True], ids=["as it is", "passed on"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_infrastructure_uses_up_no_retry(name: str, passed_on: bool) -> None:
    fault, reason = FAULTS[name]
    error = fault()
    found = failure(wrapped(error) if passed_on else error).error
    assert found is not None
    assert (found.reason, found.recoverable, found.retryable) == (reason, True, True)
    assert found.message


OTHERS: dict[str, tuple[BaseException, bool]] = {
    "bad input": (InvalidInput("wrong"), False),
    "corrupt data": (CorruptData("wrong"), False),
    "a bucket that does not exist": (explained(aws("NO_SUCH_BUCKET"), "s3://b"), False),
    "lost workers": (Retryable("lost"), True),
    "a fault of the program": (ValueError("wrong"), True),
    "a file that is missing": (FileNotFoundError(errno.ENOENT, "missing", "x"), True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_faults_are_the_works_own(name: str) -> None:
    error, retryable = OTHERS[name]
    found = failure(error).error
    assert found is not None
    assert (found.recoverable, found.retryable) == (False, retryable)


def test_what_a_library_made_of_bad_input_is_not_taken_for_a_fault_of_the_infrastructure() -> None:
    def fail() -> None:
        try:
            raise OSError(errno.EIO, "input/output error")
        except OSError:
            raise InvalidInput("the archive is broken") from None

    found = failure(raised(fail)).error
    assert found is not None
    assert (found.reason, found.recoverable) == ("InvalidInput", False)


def test_a_checkpoint_on_a_full_disk_waits_for_room(tmp_path: Path) -> None:
    (tmp_path / f"state.pt.{os.getpid()}").symlink_to(FULL)
    error = raised(lambda: State(network={"a": torch.zeros(1_000_000)}).save(tmp_path))
    assert isinstance(error, CheckpointNotSaved)
    found = failure(error).error
    assert found is not None
    assert found.recoverable


def test_errors_of_a_store_say_what_to_do() -> None:
    assert isinstance(explained(aws("ACCESS_DENIED"), "s3://b"), AccessDenied)
    assert isinstance(explained(OSError(errno.ENOSPC, "full"), "/x"), StoreFull)
    assert isinstance(explained(aws("NETWORK_CONNECTION"), "s3://b"), StoreUnavailable)
    with pytest.raises(NotFound):
        StorePath.parse("/nowhere/at/all").read_bytes()
