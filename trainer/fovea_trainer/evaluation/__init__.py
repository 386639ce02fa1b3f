"""Evaluation of an exported model through the very code that serves it."""
