"""When a run has diverged, and where its numbers leave the range first."""

from __future__ import annotations

import math

from simulations.training.modules import torch

LARGEST_RELATIVE_LOSS = 1e3  # the paper's: figure 3 calls a step diverged beyond it


def has_diverged(loss: float, first: float) -> bool:
    """Whether a loss is not finite, or more than 1000 times the first one.

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018, section 3.1.

    Examples
    --------
    >>> has_diverged(2301.0, first=2.3), has_diverged(math.nan, first=2.3), has_diverged(2299.0, first=2.3)
    (True, True, False)
    """
    return not math.isfinite(loss) or loss > LARGEST_RELATIVE_LOSS * first


def first_not_finite(model: torch.nn.Module, images: torch.Tensor) -> str:
    """Return the name of the first weight, buffer or activation that is not finite, in the order of a forward pass.

    Empty if there is none. The pass is in the mode that the model is in.
    """
    found: list[str] = []

    def look(name: str, what: object) -> None:
        if not found and isinstance(what, torch.Tensor) and what.is_floating_point() and not torch.isfinite(what).all():
            found.append(name)

    def before(name: str, module: torch.nn.Module) -> None:
        for part, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            look(f"{name}.{part}", tensor)

    handles = []
    for name, module in model.named_modules():
        if not list(module.children()):
            handles += [
                module.register_forward_pre_hook(lambda module, _, name=name: before(name, module)),
                module.register_forward_hook(lambda _, __, output, name=name: look(name, output)),
            ]
    try:
        with torch.no_grad():
            look("the output", model(images))
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""
