"""Laws of the singular values of random products and of the Jacobians of random networks."""
