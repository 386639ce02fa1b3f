"""Builders of child objects: pure functions from a run and what its owner says to a manifest."""
