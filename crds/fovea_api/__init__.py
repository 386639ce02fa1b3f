"""The API of Fovea: every kind, the run, the dataset version and the model bundle, as frozen pydantic models.

This package is the only definition of the API. It needs pydantic and the standard library only; the CRDs, the
API reference and the checks of a local run are all made from it.
"""
