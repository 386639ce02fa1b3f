"""Dataset: builds versions from sources, and deletes old ones."""

from fovea_api.dataset import Dataset, references
from fovea_api.run import RunType

from fovea_operator.kinds.dataset.gauges import GAUGES
from fovea_operator.kinds.dataset.observe import observe_dataset
from fovea_operator.kinds.dataset.plan import plan_dataset
from fovea_operator.objects import DATASET
from fovea_operator.registry import KindEntry, reconciler
from fovea_operator.workloads.job import JobWorkload

ENTRY = KindEntry(
    kind=DATASET,
    model=Dataset,
    references=references,
    reconcile=reconciler(observe_dataset, plan_dataset),
    run_types={RunType.DATASET_BUILD: JobWorkload()},
    gauges=GAUGES,
)
