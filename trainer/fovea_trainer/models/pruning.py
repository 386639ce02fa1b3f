"""Structured pruning: channels are removed from all layers that they connect, by torch-pruning's dependency graph.

Fang et al., "DepGraph: Towards Any Structural Pruning" (2023). Every group of coupled layers loses the same share of
its channels, those of the smallest L2 norm over all layers of the group.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch_pruning
from fovea_api.errors import InvalidInput
from torch import Tensor, nn
from torch_pruning.dependency.group import Group

from fovea_trainer.models.description import NetworkDescription, assemble
from fovea_trainer.models.network import AnyNetwork

ROOTS = (nn.Conv2d, nn.Linear)
"""Layers whose outputs are pruned; what else has these channels follows."""
LAYERS = (*ROOTS, nn.ConvTranspose2d)
PRUNABLE = (*LAYERS, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
"""Modules whose channels can be removed, and restored by `fit_shapes`."""
MULTIPLE = 8
"""Wide layers keep a multiple of so many channels, which is what processors compute at once."""
WIDE = 8 * MULTIPLE
"""Channels from which a layer is wide: the share that it loses differs by a ninth at most."""
TRACED_SIZE = (96, 96)
"""Width and height of the images by which the layers' connections are found, which are the same for all sizes."""
TOLERANCE = 1e-3
"""Of the restored network's outputs, relative to the largest of them."""


def prune(
    network: AnyNetwork,
    sparsity: float,
    size: tuple[int, int] = TRACED_SIZE,
    channels: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Weights of the network without the least important channels; the network itself stays as it is.

    The number of channels that a layer keeps depends on the number that it had before any pruning, so that to prune
    once more changes nothing.

    Args:
        network: A network that is built and restored by its description.
        sparsity: Share of the channels to remove.
        size: Width and height of the input in pixels.
        channels: Outputs of each layer before any pruning, by its name; None: those that it has.

    Raises:
        InvalidInput: the network has parts whose channels cannot be removed.
    """
    _refuse_others(network)
    pruned: AnyNetwork = copy.deepcopy(network).cpu().eval()
    before = channels or layer_channels(network)
    for parameter in pruned.parameters():
        parameter.requires_grad_(True)
    images = torch.zeros(2, 3, size[1], size[0])
    images[0] = 1.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _remove(pruned, sparsity, images, before)
        state = {name: value.detach().clone() for name, value in pruned.state_dict().items()}
        _check(pruned, state, images)
    except Exception as error:  # the graph's code fails in many ways on what it does not know
        reason = (str(error).splitlines() or [""])[0]
        raise InvalidInput(
            f"this network cannot be pruned: {type(error).__name__}: {reason[:300]}",
            "spec.compression.pruning",
            "remove it, or use another architecture",
        ) from error
    return state


def _refuse_others(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, PRUNABLE):
            raise InvalidInput(
                f"this network cannot be pruned: {name} is a {type(module).__name__} with parameters of its own, whose "
                "channels are not known to be independent",
                "spec.compression.pruning",
                "remove it, or use an architecture of convolutions, linear layers, batch and group norms",
            )


def layer_channels(network: nn.Module) -> dict[str, int]:
    """Outputs of each layer by its name."""
    return {name: module.weight.shape[0] for name, module in network.named_modules() if isinstance(module, ROOTS)}


def output_layers(network: AnyNetwork, images: Tensor) -> list[nn.Module]:
    """The layers that the outputs come from without another one in between: their channels are the task's."""
    owners: dict[object, nn.Module] = {}

    def remember(module: nn.Module, inputs: object, output: Tensor) -> None:
        owners.setdefault(output.grad_fn, module)

    hooks = [module.register_forward_hook(remember) for module in network.modules() if isinstance(module, LAYERS)]
    try:
        outputs = network.traced(images)
    finally:
        for hook in hooks:
            hook.remove()
    found: list[nn.Module] = []
    seen: set[object] = set()
    open_ends = [output.grad_fn for output in outputs]
    while open_ends:
        step = open_ends.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if step in owners:
            found.append(owners[step])
        else:
            open_ends += [previous for previous, _ in step.next_functions]
    return list(dict.fromkeys(found))


def _remove(network: AnyNetwork, sparsity: float, images: Tensor, before: Mapping[str, int]) -> None:
    """Removes channels of the network in place."""
    fixed = output_layers(network, images)
    names = {module: name for name, module in network.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(
        network, images, forward_fn=lambda module, inputs: module.traced(inputs), verbose=False
    )
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    chosen: list[tuple[nn.Module, object, list[int]]] = []
    for group in graph.get_all_groups(ignored_layers=fixed, root_module_types=ROOTS):
        root, function = group[0].dep.target.module, group[0].dep.handler
        norms = importance(group)
        if norms is not None:
            blocks = _blocks(graph, group)
            kept = kept_channels(before[names[root]] // blocks, sparsity)
            removed = norms.view(blocks, -1).mean(0).argsort(stable=True)[: max(0, len(norms) // blocks - kept)]
            offsets = torch.arange(blocks) * (len(norms) // blocks)
            chosen.append((root, function, (offsets[:, None] + removed.cpu()).flatten().tolist()))
    for root, function, indices in chosen:
        if indices:
            group = graph.get_pruning_group(root, function, indices)
            if graph.check_pruning_group(group):
                group.prune()


def kept_channels(channels: int, sparsity: float) -> int:
    """Of so many channels, or of each block of them, those that stay; wide layers keep a multiple of MULTIPLE."""
    kept = math.ceil(channels * (1 - sparsity) - 1e-9)
    return min(channels, math.ceil(kept / MULTIPLE) * MULTIPLE) if channels >= WIDE else kept


def _blocks(graph: torch_pruning.DependencyGraph, group: Group) -> int:
    """Blocks of channels that must stay equally large: those of group norms and of grouped convolutions."""
    return max(_blocks_of(graph, group), default=1)


def _blocks_of(graph: torch_pruning.DependencyGraph, group: Group) -> Iterator[int]:
    for dependency, _ in group:
        module = dependency.target.module
        if isinstance(module, nn.GroupNorm):
            yield module.num_groups
        elif isinstance(module, nn.Conv2d) and 1 < module.groups < module.out_channels:
            yield module.groups


def _check(pruned: AnyNetwork, state: Mapping[str, Tensor], images: Tensor) -> None:
    """That the weights, and the description, make a network that computes what the pruned one does."""
    restored = assemble(NetworkDescription.from_json(pruned.description), state, "pruning")
    with torch.no_grad():
        one, other = _flat(pruned.traced(images)), _flat(restored.traced(images))
    if not torch.allclose(one, other, atol=TOLERANCE * float(one.abs().max())):
        raise ValueError("its weights do not describe what is left of it")


def _flat(outputs: Sequence[Tensor]) -> Tensor:
    return torch.cat([output.flatten().float() for output in outputs])
