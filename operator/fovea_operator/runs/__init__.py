"""Runs and their attempts: what every kind whose work takes long has in common."""
