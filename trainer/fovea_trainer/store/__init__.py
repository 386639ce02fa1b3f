"""All access to stored files, whatever the store."""

from fovea_trainer.store.errors import AccessDenied, NotFound, StoreUnavailable
from fovea_trainer.store.path import Entry, StorePath

__all__ = ["AccessDenied", "Entry", "NotFound", "StorePath", "StoreUnavailable"]
