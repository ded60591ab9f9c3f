"""Fluctuations from one draw of the weights to the next: exact laws, first order in 1/width, noise of images."""
