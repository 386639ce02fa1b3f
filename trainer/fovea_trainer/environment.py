"""Where a run works beside its spec: its name, its attempt, its folder, and the Run object that it reports into."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fovea_api.common import parse_quantity
from fovea_api.errors import CorruptData, InvalidInput
from fovea_api.run import RunSpec, RunType
from fovea_store import StoreOwner
from pydantic import ValidationError

from fovea_trainer.reporting import RunStatus

MADE_ANEW = "leave the ConfigMap of an attempt alone; the next attempt gets one of its own"


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """Where a run works, beside its spec.

    Args:
        name: Name of the run.
        attempt: Number of the attempt, from 1.
        work_dir: Local folder for caches and intermediate files.
        ray: Whether training runs on Ray, else in this process.
        status: The Run object to report into; None: there is none.
        owner: Whom the store must belong to. None: an operator of before, which does not say.
        adopt: Id of the owner whose store is taken over; see `claim_store`.
        work_dir_bytes: What `work_dir` may hold; None: what its disk has free.
    """

    name: str
    attempt: int
    work_dir: Path
    ray: bool
    status: RunStatus | None = None
    owner: StoreOwner | None = None
    adopt: str = ""
    work_dir_bytes: int | None = None

    def share(self, share: float) -> int | None:
        """Bytes that are a share of what `work_dir` may hold; None: it may hold what its disk has free."""
        return None if self.work_dir_bytes is None else int(self.work_dir_bytes * share)


def read_environment(environment: Mapping[str, str]) -> tuple[RunSpec, RunEnvironment]:
    """The run spec and where it is carried out. Raises InvalidInput."""
    try:
        spec = RunSpec.model_validate_json(_spec_text(environment))
        name, namespace = environment["FOVEA_RUN_NAME"], environment["FOVEA_NAMESPACE"]
        host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
    except KeyError as error:
        raise InvalidInput(
            f"the variable {error.args[0]} is not set", None, "`fovea run` works in a run's pod only"
        ) from error
    except ValidationError as error:
        raise InvalidInput(str(error), "the run spec") from error
    run_environment = RunEnvironment(
        name=name,
        attempt=int(environment.get("FOVEA_ATTEMPT", "1")),
        work_dir=Path(environment.get("FOVEA_WORK_DIR", "/fovea/work")),
        ray=spec.type in (RunType.TRAINING, RunType.TUNING_SWEEP),
        owner=_owner(environment, namespace),
        adopt=environment.get("FOVEA_ADOPT", ""),
        work_dir_bytes=int(parse_quantity(size)) if (size := environment.get("FOVEA_WORK_DIR_SIZE")) else None,
        status=RunStatus(f"https://{f'[{host}]' if ':' in host else host}:{port}", namespace, name),
    )
    return spec, run_environment


def _spec_text(environment: Mapping[str, str]) -> str | bytes:
    """The spec as JSON: from the variable, or where it is too large for one, from the file that a ConfigMap is."""
    if (file := environment.get("FOVEA_RUN_FILE")) is None:
        return environment["FOVEA_RUN"]
    try:
        text = gzip.decompress(Path(file).read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptData(f"the run spec cannot be read: {error}", file, MADE_ANEW) from error
    digest = hashlib.sha256(text).hexdigest()
    if digest != (expected := environment["FOVEA_RUN_SHA256"]):
        raise CorruptData(f"the run spec's sha256 is {digest}, not {expected}", file, MADE_ANEW)
    return text


def _owner(environment: Mapping[str, str], namespace: str) -> StoreOwner | None:
    try:
        return StoreOwner(environment["FOVEA_CLUSTER_UID"], environment["FOVEA_NAMESPACE_UID"], namespace)
    except KeyError:
        return None
