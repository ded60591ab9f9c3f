"""What can be chosen on the page, and the nodes at which theory is asked."""

from __future__ import annotations

import math

BATCH = 32  # of BatchNorm
LEVEL = 0.9  # of the bands
DEPTH = 100  # the deepest network; its first rows are those of others
ACTIVATIONS = ("relu", "tanh", "gelu", "linear")
GAINS = (math.sqrt(1 / 3), 0.8, 1.0, 1.2, math.sqrt(2), 2.0)  # stops of the slider: nothing is interpolated between
INITIALIZATIONS = {  # label, and the gain if it is the law's own; xavier_normal of equal fans is lecun_normal
    "he_normal": ("He, normal", math.sqrt(2)),
    "xavier_normal": ("Xavier, normal", 1.0),
    "lecun_normal": ("LeCun, normal", 1.0),
    "torch_default": ("PyTorch’s default", math.sqrt(1 / 3)),
    "orthogonal": ("orthogonal, of a gain", None),
    "normal": ("normal, of a gain", None),
}
WIDTHS = (16, 24, 48, 128, 384, 1024, 4096)
GELU_WIDTHS = (16, 19, 24, 32, 44, 64, 90, 140, 256, 600, 1500, 4096)  # its laws have two humps where σ_w² = 2
FEW_WIDTHS = (16, 40, 150, 4096)  # where the spread is a power of the width, but for little
MANY_WIDTHS = (16, 20, 26, 36, 52, 80, 128, 220, 400, 800, 1600, 4096)  # of what biases of PyTorch's default leave
DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 28, 36, 46, 60, 78, 100)


def upto(nodes: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The nodes below `most`, and `most`.

    >>> upto((1, 2, 3, 5), 4)
    (1, 2, 3, 4)
    """
    return (*(node for node in nodes if node < most), most)
