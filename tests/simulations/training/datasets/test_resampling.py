"""Enlarging and shrinking against torch, against repetition, and by what they keep."""

import numpy as np
import pytest

from simulations.training.datasets import area_average, resize


@pytest.mark.parametrize("size", [1, 4, 8, 9, 16, 33])
def test_resize_is_torch_s_bilinear_interpolation(size):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).standard_normal((3, 2, 8, 5))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images), size=(size, size), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resize(images, size), expected, atol=1e-12)


def test_resize_keeps_what_it_should():
    image = np.random.default_rng(0).standard_normal((6, 6))
    np.testing.assert_allclose(resize(image, 6), image, atol=1e-15)
    np.testing.assert_allclose(resize(np.full((1, 1), 3.0), 4), 3.0)
    np.testing.assert_allclose(resize(image, 12).mean(), image.mean(), atol=1e-12)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(6, 6, 4), (7, 5, 3), (28, 28, 8), (8, 8, 8), (5, 4, 1), (3, 2, 5)]
)
def test_area_average_is_the_mean_of_repeated_pixels(height, width, size):
    """Every pixel as a block of size × size equal ones; then each new pixel is a mean over whole blocks."""
    images = np.random.default_rng(0).standard_normal((3, 2, height, width))
    fine = images.repeat(size, axis=-2).repeat(size, axis=-1)
    expected = fine.reshape(3, 2, size, height, size, width).mean(axis=(-3, -1))
    np.testing.assert_allclose(area_average(images, size), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("change", [resize, area_average])
def test_bad_arguments_are_named(change):
    for size in (0, -3, 2.5, "8", float("nan"), True):
        with pytest.raises(ValueError, match=r"size must be .*got"):
            change(np.zeros((2, 2)), size)
    with pytest.raises(ValueError, match=r"images must have shape \(…, height, width\), got \(4,\)"):
        change(np.zeros(4), 5)
