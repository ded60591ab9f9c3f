"""Real images that need no download, as standardised arrays: (images, labels)."""

from simulations.training.datasets.bundled import digits
from simulations.training.datasets.cifar import cifar10
from simulations.training.datasets.idx import fashion_mnist
from simulations.training.datasets.image_set import ImageSet, batch_of
from simulations.training.datasets.resampling import area_average, resize
from simulations.training.datasets.sources import Inputs, images_for, load

__all__ = [
    "ImageSet",
    "Inputs",
    "area_average",
    "batch_of",
    "cifar10",
    "digits",
    "fashion_mnist",
    "images_for",
    "load",
    "resize",
]
