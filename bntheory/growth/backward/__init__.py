"""The way back: squared gradients of activations and weights."""
