"""Names that every part of Fovea shares: the API group, labels, annotations, field managers."""

GROUP = "fovea.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

FIELD_MANAGER = "fovea"
"""Server-side apply field manager of the operator."""
RUN_FIELD_MANAGER = "fovea-run"
"""Server-side apply field manager of a run's pods; owns `status.progress` and `status.result` of its Run."""
RUN_SERVICE_ACCOUNT = "fovea-run"

LABEL_KIND = f"{GROUP}/kind"
LABEL_NAME = f"{GROUP}/name"
LABEL_RUN = f"{GROUP}/run"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "fovea"

ANNOTATION_RESTART = f"{GROUP}/restart"
"""Any new value asks for a new run of the same recipe; it becomes the run's nonce."""
ANNOTATION_RETRY = f"{GROUP}/retry"
"""Any new value asks for another attempt of the same run at once, from its last checkpoint."""
ANNOTATION_ADOPT = f"{GROUP}/adopt"
"""Of a namespace: the owner whose store it takes over, `<uid of the cluster>/<uid of the namespace>`."""
ANNOTATION_APPROVE = f"{GROUP}/approve"
"""Name of the run that a ModelDeployment with manual promotion may roll out."""

LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY = "kueue.x-k8s.io/priority-class"
