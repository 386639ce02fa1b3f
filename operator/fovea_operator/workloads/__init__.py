"""The kinds of objects that work on an attempt of a run, a file each, behind the protocol in `workload.py`."""
