"""Measurements of networks at initialization and while they train; none changes what it measures.

PROBES holds those that are cheap enough to run many times during training, by name. Each is called as
``probe(model, images, labels, loss)`` and returns a result with ``to_dict``, ``table`` and ``plot``.
"""

from collections.abc import Callable
from typing import Any

from simulations.training.probes import channel_moments, gradient_histogram, kernel_alignment, logit_gradients

PROBES: dict[str, Callable[..., Any]] = {
    "gradient_histogram": gradient_histogram.gradient_histogram,
    "channel_moments": channel_moments.channel_moments,
    "logit_gradients": logit_gradients.logit_gradients,
    "kernel_alignment": kernel_alignment.kernel_alignment,
}
