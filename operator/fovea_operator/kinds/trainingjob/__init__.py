"""TrainingJob: trains models on the versions of a Dataset, and has engines built from them."""

from fovea_api.run import RunType
from fovea_api.trainingjob import TrainingJob, references

from fovea_operator.kinds.trainingjob.gauges import GAUGES
from fovea_operator.kinds.trainingjob.observe import observe_training
from fovea_operator.kinds.trainingjob.plan import plan_training
from fovea_operator.objects import TRAINING_JOB
from fovea_operator.registry import KindEntry, reconciler
from fovea_operator.workloads.job import JobWorkload
from fovea_operator.workloads.rayjob import RayJobWorkload

ENTRY = KindEntry(
    kind=TRAINING_JOB,
    model=TrainingJob,
    references=references,
    reconcile=reconciler(observe_training, plan_training),
    run_types={RunType.TRAINING: RayJobWorkload(), RunType.ENGINE_BUILD: JobWorkload()},
    gauges=GAUGES,
)
