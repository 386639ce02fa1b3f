"""TuningSweep: checked and kept, not acted on by this version."""

from fovea_api.tuningsweep import TuningSweep, references

from fovea_operator.objects import TUNING_SWEEP
from fovea_operator.registry import KindEntry

ENTRY = KindEntry(kind=TUNING_SWEEP, model=TuningSweep, references=references)
