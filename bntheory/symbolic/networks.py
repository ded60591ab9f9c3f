"""Factors of the Jacobian of a network, for exact derivation."""

from __future__ import annotations

from bntheory.activations import Activation
from bntheory.layers import Dense, Flatten
from bntheory.networks import Sequential, leaves
from bntheory.symbolic.spectra import Factor, gaussian, mask, orthogonal


def factors(net: Sequential) -> list[Factor]:
    """Return the factors of the Jacobian of Dense layers and ReLUs, the first applied first.

    Parameters
    ----------
    net : Sequential
        Of Dense layers, each followed by at most one activation, relu or linear.

    Returns
    -------
    list of Factor
        For `law`: `gaussian` (whatever the weights' distribution) or `orthogonal` for a Dense layer, and a `mask` that
        keeps half of the units for relu.

    Raises
    ------
    ValueError
        If there is another layer, or none with weights.

    References
    ----------
    Hanin, Nica 2018: masks of ReLUs are fair coins, independent of everything else.

    Examples
    --------
    >>> from bntheory import mlp
    >>> from bntheory.symbolic import law, moments
    >>> moments(law(factors(mlp(depth=2, width=64))), 4)
    [1, 5, 33, 249]
    """
    found: list[Factor] = []
    rows = leaves(net)
    width, masked = next(rows).shape[-1], False
    for row in rows:
        layer = row.layer
        if isinstance(layer, Dense):
            uniform = layer.init.distribution == "orthogonal"
            variance = layer.init.gain**2 if uniform else width * layer.weight_variance((width,))
            found.append((orthogonal if uniform else gaussian)(layer.features, width, variance))
            width, masked = layer.features, False
        elif isinstance(layer, Activation) and str(layer) == "relu" and found and not masked:
            found.append(mask(f"{width}/2", width))
            masked = True
        elif not isinstance(layer, Flatten) and str(layer) != "linear":
            raise ValueError(
                f"no exact derivation because of row {row.name} ({row.operation}): only Dense layers, each followed by "
                "relu or nothing, are derived"
            )
    if not found:
        raise ValueError(f"no exact derivation of a network without Dense layers, got {net}")
    return found
