"""TuningSweep: searches a better recipe, and promotes what it has found."""

from fovea_api.run import RunType
from fovea_api.tuningsweep import TuningSweep, references

from fovea_operator.kinds.tuningsweep.observe import observe_sweep
from fovea_operator.kinds.tuningsweep.plan import plan_sweep
from fovea_operator.objects import TRAINING_JOB, TUNING_SWEEP
from fovea_operator.registry import KindEntry, Rights, reconciler
from fovea_operator.workloads.rayjob import RayJobWorkload

ENTRY = KindEntry(
    kind=TUNING_SWEEP,
    model=TuningSweep,
    references=references,
    reconcile=reconciler(observe_sweep, plan_sweep),
    run_types={RunType.TUNING_SWEEP: RayJobWorkload()},
    rights=(Rights(TRAINING_JOB.group, (TRAINING_JOB.plural,), ("create", "patch")),),  # spec.promote
)
