"""What counts say, whenever one looks: tests for the gates of a rollout, and for drift. Pure, and of floats alone.

betting.py holds the tests, gates.py what a rollout makes of them.
"""
