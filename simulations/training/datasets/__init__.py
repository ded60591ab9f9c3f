"""Real images that need no download, as standardised arrays: (images, labels)."""

from simulations.training.datasets.bundled import digits
from simulations.training.datasets.image_set import ImageSet, batch_of
from simulations.training.datasets.resampling import area_average, resize

__all__ = ["ImageSet", "area_average", "batch_of", "digits", "resize"]
