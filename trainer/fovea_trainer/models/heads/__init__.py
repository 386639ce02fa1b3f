"""Heads, a file each: what turns the features of any body into the answers to a task, with loss and decoding."""
