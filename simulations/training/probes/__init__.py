"""Measurements of networks at initialization and while they train; none changes what it measures.

====================  =========  ===================================================================================
probe                 streaming  what it measures
====================  =========  ===================================================================================
gradient_histogram    yes        gradients of the weights of every layer: deviation, kurtosis, a histogram
channel_moments       yes        means and deviations of channels by depth
logit_gradients       yes        the gradient by the outputs, image by image, and the predicted classes
kernel_alignment      yes        whether contributions to a weight's gradient add up or cancel
theory_gap                       every row as it is beside the prediction for random weights of the same sizes
loss_along_step                  the loss along the gradient of a batch
moments_along_step               channels along a step that diverges, or a given one
sgd_noise                        variance of the gradients of images, and the noise of steps with mini-batches
curvature                        the largest eigenvalues of the Hessian
stable_step                      the largest step that stays bounded, by trying
jacobian_spectrum                singular values of the Jacobian at the first image, in evaluation mode, and their law
weight_spectra                   singular values of weights, their law, and the test of randomness
====================  =========  ===================================================================================

PROBES has them all by name, each to be called as ``probe(model, images, labels, loss)``; a result has ``to_dict``,
``table`` and ``plot``. STREAMING names those that are cheap enough to run many times during training; `observe` runs
several of them in one forward pass.
"""

from simulations.training.probes.table import PROBES, STREAMING, observe

__all__ = ["PROBES", "STREAMING", "observe"]
