"""Real images as standardised arrays, (images, labels): of packages, or of files that are here."""

from simulations.training.datasets.bundled import digits
from simulations.training.datasets.cifar import cifar10
from simulations.training.datasets.download import download_cifar10
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
    "download_cifar10",
    "fashion_mnist",
    "images_for",
    "load",
    "resize",
]
