"""Cleanups: the Runs that delete from the store."""
