"""ModelDeployment: checked and kept, not acted on by this version."""

from fovea_api.modeldeployment import ModelDeployment, references

from fovea_operator.objects import MODEL_DEPLOYMENT
from fovea_operator.registry import KindEntry

ENTRY = KindEntry(kind=MODEL_DEPLOYMENT, model=ModelDeployment, references=references)
