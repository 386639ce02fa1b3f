"""The errors of stores and disks, and what file systems raise turned into them."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator

from fovea_api.errors import FoveaError, InvalidInput, Recoverable

DENIED = (
    "ACCESS_DENIED",
    "AccessDenied",
    "INVALID_ACCESS_KEY_ID",
    "InvalidAccessKeyId",
    "INVALID_CLIENT_TOKEN_ID",
    "InvalidClientTokenId",
    "INVALID_SIGNATURE",
    "SIGNATURE_DOES_NOT_MATCH",
    "SignatureDoesNotMatch",
    "MISSING_AUTHENTICATION_TOKEN",
    "UNRECOGNIZED_CLIENT",
    "REQUEST_EXPIRED",
    "REQUEST_TIME_TOO_SKEWED",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "HTTP status 401",
    "HTTP status 403",
)
"""What object stores say of keys that are wrong, were rotated, or of tokens that have expired."""
FULL = (
    "INSUFFICIENT_STORAGE",
    "InsufficientStorage",
    "QuotaExceeded",
    "StorageFull",
    "HTTP status 507",
    "No space left",
    "Disk quota exceeded",
    "database or disk is full",
)
"""What stores and disks say when nothing more fits."""
AWAY = (
    *(errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
)
"""Numbers of the errors of a disk or a network that fails."""
OBJECT_STORES = ("AWS Error", "google::cloud::Status")
"""How arrow's errors of object stores begin."""


class NotFound(InvalidInput):
    """Nothing is stored there."""


class AccessDenied(Recoverable):
    """The store refuses the credentials: they are wrong, were rotated, or have expired."""


class StoreFull(Recoverable):
    """Nothing more fits into the store, or onto the disk of the pod."""


class StoreUnavailable(Recoverable):
    """The store does not answer, or failed while it worked."""


def explained(error: OSError, uri: str) -> InvalidInput | Recoverable:
    """What a file system raised, as an error that says what to do about it."""
    text = str(error)
    if any(word in text for word in DENIED):
        return AccessDenied("the store refuses the credentials", uri, "check the keys of the Secret")
    if "NO_SUCH_BUCKET" in text or "NoSuchBucket" in text:
        return NotFound("the bucket does not exist", uri, "create it or check its name")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        place = str(error.filename2 or error.filename or uri)
        return InvalidInput(f"no file can be there: {error.strerror}", place, "rename or remove it")
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or any(word in text for word in FULL):
        return StoreFull("no space is left", uri, "make room or enlarge the volume")
    return StoreUnavailable(text.splitlines()[0] if text else repr(error), uri, "check the store and its endpoint")


def outside_cause(error: BaseException) -> Recoverable | None:
    """The infrastructure fault behind any error, in whatever library it was met; None: there is none."""
    for each in causes(error):
        if isinstance(each, Recoverable):
            return each
        if isinstance(each, FoveaError):
            return None
        text = str(each)
        if isinstance(each, OSError):
            known = each.errno in (errno.ENOSPC, errno.EDQUOT, *AWAY) or any(word in text for word in OBJECT_STORES)
            found = explained(each, str(each.filename or "")) if known else None
            if isinstance(found, Recoverable):
                return found
        elif isinstance(each, sqlite3.OperationalError | RuntimeError) and any(word in text for word in FULL):
            return StoreFull(text.splitlines()[0], None, "make room or enlarge the volume")
    return None


def first_line(error: BaseException) -> str:
    """What an error says first; its class where it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it, inside of Ray's errors too, the outermost first."""
    seen: list[BaseException] = [error]
    for each in seen:
        yield each
        workers = getattr(each, "worker_failures", {}).values()
        context = None if each.__suppress_context__ else each.__context__
        wrapped = (getattr(each, name, None) for name in ("_base_exc", "health_check_failure", "controller_failure"))
        inner = [each.__cause__, context, *wrapped, *workers]
        seen += [part for part in inner if isinstance(part, BaseException) and part not in seen]
