"""ModelDeployment: serves models behind a gateway, by Ray Serve or Triton."""

from fovea_api.modeldeployment import ModelDeployment, references

from fovea_operator.kinds.modeldeployment.build import CHILDREN
from fovea_operator.kinds.modeldeployment.gauges import GAUGES
from fovea_operator.kinds.modeldeployment.observe import observe_deployment
from fovea_operator.kinds.modeldeployment.plan import LOAD_TESTS_ENDED, ROLLOUTS_ENDED, plan_deployment
from fovea_operator.objects import MODEL_DEPLOYMENT
from fovea_operator.registry import KindEntry, Rights, reconciler

ENTRY = KindEntry(
    kind=MODEL_DEPLOYMENT,
    model=ModelDeployment,
    references=references,
    reconcile=reconciler(observe_deployment, plan_deployment),
    children=CHILDREN,
    # A gateway may ask this of the API server, and nobody can grant what he has not.
    rights=(Rights("authorization.k8s.io", ("localsubjectaccessreviews",), ("create",)),),
    metrics=(ROLLOUTS_ENDED, LOAD_TESTS_ENDED),
    gauges=GAUGES,
)
