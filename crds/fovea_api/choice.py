"""`model.architecture: Auto`: what is known of the candidates, the limits that they must keep, and the choice in words.

The limits are the success criteria on latency, size and complexity. So they are stated once, and with Auto they are a
part of a run's identity: another limit may choose another network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from fovea_api.common import Int, Metrics, Model, Word
from fovea_api.criteria import Criterion, evaluate_criteria
from fovea_api.metrics import OF_THE_MODEL

AUTO = "Auto"
"""In the place of an architecture's name: a comparison chooses one."""
MAX_CANDIDATES = 32


class Candidate(Model):
    """An architecture that was compared before the training."""

    architecture: Word
    """Name of the architecture."""
    metrics: Metrics = {}
    """Latency, size and complexity of the exported network before training, and the metric that the candidates are
    compared by after the short training. Empty: it was not measured."""
    epochs: Annotated[Int, Field(ge=0)] = 0
    """Number of epochs of the short training. 0: there was none."""
    reason: Annotated[str, Field(max_length=1024)] | None = None
    """Why it was not chosen. Absent: it was."""

    @property
    def quality(self) -> str:
        """How good it was after its short training, such as `validation/mAP 0.41 after 3 epochs`; empty: none."""
        values = [f"{name} {value:.4g}" for name, value in self.metrics.items() if name.startswith("validation/")]
        return f"{', '.join(values)} after {self.epochs} epoch{'s' * (self.epochs > 1)}" if values else ""

    def beyond(self, limits: Sequence[Criterion]) -> str:
        """The limits that it misses, in words; empty: it keeps all."""
        return "; ".join(str(result) for result in evaluate_criteria(limits, self.metrics) if not result.met)

    def excess(self, limits: Sequence[Criterion]) -> float:
        """By how much it misses the limit that it misses most, as a share of that limit; 0: it keeps all."""
        return max((_excess(limit, self.metrics[limit.metric]) for limit in limits), default=0.0)


def _excess(limit: Criterion, value: float) -> float:
    above = 0.0 if limit.max is None else (value - limit.max) / max(abs(limit.max), 1e-9)
    below = 0.0 if limit.min is None else (limit.min - value) / max(abs(limit.min), 1e-9)
    return max(0.0, above, below)


def limits_of(criteria: Sequence[Criterion]) -> tuple[Criterion, ...]:
    """The success criteria that a network meets or misses before it has learned anything, by their metric."""
    return tuple(sorted((each for each in criteria if each.metric in OF_THE_MODEL), key=lambda each: each.metric))


def in_words(candidates: Sequence[Candidate]) -> str:
    """What was chosen and why not the others, in a sentence; empty: nothing was compared."""
    chosen = next((each for each in candidates if each.reason is None), None)
    if chosen is None:
        return ""
    others = "; ".join(f"{each.architecture}: {each.reason}" for each in candidates if each is not chosen)
    words = f"{chosen.architecture} was chosen of {len(candidates)} candidates"
    if chosen.quality:
        words += f" with {chosen.quality}"
    return f"{words} ({others})" if others else words


__all__ = ["AUTO", "MAX_CANDIDATES", "Candidate", "in_words", "limits_of"]
