"""The errors of stores, and what file systems raise turned into them."""

from __future__ import annotations

from fovea_api.errors import InvalidInput, Retryable


class NotFound(InvalidInput):
    """Nothing is stored there."""


class AccessDenied(InvalidInput):
    """The store refuses the credentials."""


class StoreUnavailable(Retryable):
    """The store does not answer, or failed while it worked."""


def explained(error: OSError, uri: str) -> InvalidInput | Retryable:
    """What a file system raised, as an error that says what to do about it."""
    text = str(error)
    if any(
        word in text for word in ("ACCESS_DENIED", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403")
    ):
        return AccessDenied("the store refuses the credentials", uri, "check the keys of the Secret")
    if "NO_SUCH_BUCKET" in text or "NoSuchBucket" in text:
        return NotFound("the bucket does not exist", uri, "create it or check its name")
    if error.errno == 28:
        return StoreUnavailable("no space is left", uri, "make room or enlarge the volume")
    return StoreUnavailable(text.splitlines()[0] if text else repr(error), uri, "check the store and its endpoint")
