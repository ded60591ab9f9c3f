"""Probe: the Jacobian of a torch module at one input."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bntheory.networks import Sequential
from simulations.graded import Floats
from simulations.training.modules import torch
from simulations.training.probes import evaluation

nn = torch.nn
CHUNK = 256  # rows at once: bounds the memory, keeps the matrix products large


def jacobian(model: nn.Module, x: ArrayLike | torch.Tensor) -> Floats:
    """Return the derivatives ∂y_i/∂x_j of a module's output y by its input, at one input.

    Nothing of the model is changed, also if its forward pass raises: parameters, gradients, buffers, attributes, modes
    and random generators are as before. Its log singular values: ``sim.log_singular_values([sim.jacobian(model, x)])``.

    Parameters
    ----------
    model : torch.nn.Module
        Takes a batch (1, *shape) of floating-point numbers and returns a real tensor (1, …). Differentiated in the mode
        it is in; no BatchNorm in training mode.
    x : array or tensor
        One input, without a batch axis, finite; converted to the type and device of the model's parameters.

    Returns
    -------
    ndarray
        (entries of y, entries of x), float64, both in C order.

    Raises
    ------
    ValueError
        If x is empty, not finite, not of numbers or of a shape that the model does not take; if a BatchNorm is in
        training mode (it is named), where inputs of a batch depend on one another; if a derivative is not finite.
    TypeError
        If the model is not a module, or returns something else than such a tensor.

    Notes
    -----
    One forward pass and, in chunks of 256, a backward pass a row, in the type of the model's parameters: float32 leaves
    an error of about 1e-7 of the largest singular value, so that smaller ones are rounding; ``model.double()`` moves
    that to 1e-16. At a kink torch takes the slope on the left.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Softmax(dim=1), torch.nn.ReLU())
    >>> jacobian(model, [1.0, 1.0])
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    evaluation.refuse_other_models(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name or 'model'} ({type(module).__name__}) normalizes with its batch's statistics, so that one "
                "input has no Jacobian of its own: call model.eval() first"
            )
    inputs = _input(model, x)
    with evaluation.unchanged(model, inputs.device, gradients=True):
        inputs = inputs.clone().requires_grad_()
        # copies of buffers and parameters: a pass may write to the ones and would reach the gradients of the others
        copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
        copies |= {name: parameter.detach() for name, parameter in model.named_parameters()}
        try:
            outputs = evaluation.outputs_of(model, copies, inputs[None])
        except RuntimeError as error:  # torch's own: of shapes, mostly
            what = str(error).splitlines()[0]
            shape = tuple(inputs.shape)
            raise ValueError(f"model fails on an x of shape {shape}, taken without a batch axis: {what}") from error
        matrix = _rows(outputs, inputs)
    if not np.isfinite(matrix).all():
        raise ValueError(f"the Jacobian must be finite, got {matrix[~np.isfinite(matrix)][0]}: is x out of range?")
    return matrix


def _rows(outputs: torch.Tensor, inputs: torch.Tensor) -> Floats:
    """Derivatives of all outputs by all inputs, some rows at a time."""
    if not isinstance(outputs, torch.Tensor) or not outputs.is_floating_point() or not outputs.shape[:1] == (1,):
        is_tensor = isinstance(outputs, torch.Tensor)
        kind = f"{outputs.dtype} {tuple(outputs.shape)}" if is_tensor else type(outputs).__name__
        raise TypeError(f"model must return a real tensor (1, …) for one input, got {kind}")
    matrix = np.zeros((outputs.numel(), inputs.numel()))
    if outputs.requires_grad:  # else it does not depend on its input
        for start in range(0, len(matrix), CHUNK):
            units = torch.zeros(min(CHUNK, len(matrix) - start), len(matrix)).to(outputs)
            units.diagonal(start).fill_(1)
            units = units.reshape(-1, *outputs.shape)
            (rows,) = torch.autograd.grad(
                outputs, inputs, units, retain_graph=True, is_grads_batched=True, materialize_grads=True
            )
            matrix[start : start + CHUNK] = rows.reshape(len(rows), -1).double().cpu()
    return matrix


def _input(model: nn.Module, x: ArrayLike | torch.Tensor) -> torch.Tensor:
    """One input, checked, in the type and on the device of the model's parameters."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = x.double() if x.is_floating_point() else x  # NumPy has no bfloat16
    given = np.asarray(x)
    if given.dtype.kind not in "fiu" or not given.size:
        raise ValueError(f"x must be an array of real numbers, got {given.dtype} of shape {given.shape}")
    description = vars(model).get("description")
    expected = description.input_shape if isinstance(description, Sequential) else given.shape
    if given.shape != expected:
        raise ValueError(f"x must be one input of shape {expected}, without a batch axis, got shape {given.shape}")
    tensor = torch.as_tensor(given.astype(np.float64))
    like = next((own for own in (*model.parameters(), *model.buffers()) if own.is_floating_point()), tensor)
    converted = tensor.to(device=like.device, dtype=like.dtype)
    if not torch.isfinite(converted).all():
        bad = float(tensor[~torch.isfinite(converted)][0])
        raise ValueError(f"x must be finite in the model's {converted.dtype}, got {bad:g}")
    return converted
