"""All access to stored files, whatever the store."""

from fovea_store.errors import AccessDenied, NotFound, StoreFull, StoreUnavailable
from fovea_store.ownership import BY_HAND, StoreOwner, claim_store
from fovea_store.path import Entry, StorePath

__all__ = [
    "BY_HAND",
    "AccessDenied",
    "Entry",
    "NotFound",
    "StoreFull",
    "StoreOwner",
    "StorePath",
    "StoreUnavailable",
    "claim_store",
]
