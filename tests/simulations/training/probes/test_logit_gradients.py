"""Gradients by the outputs against the closed form of cross-entropy, and the share of the most frequent prediction."""

import numpy as np
import pytest
import scipy.special

torch = pytest.importorskip("torch")
logits = pytest.importorskip("simulations.training.probes.logit_gradients")
nn, logit_gradients = torch.nn, logits.logit_gradients


def test_cross_entropy_in_closed_form():
    """(softmax(output) − one-hot(label)) / B."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((12, 5)), rng.integers(4, size=12)
    model = nn.Linear(5, 4).double()
    outputs = x @ model.weight.detach().numpy().T + model.bias.detach().numpy()
    found = logit_gradients(model, x, labels)
    np.testing.assert_allclose(
        found.gradient, (scipy.special.softmax(outputs, axis=1) - np.eye(4)[labels]) / 12, atol=1e-15
    )
    assert found.predictions.tolist() == outputs.argmax(axis=1).tolist()
    assert found.share == np.bincount(outputs.argmax(axis=1)).max() / 12
    assert found.loss == pytest.approx(-np.mean(scipy.special.log_softmax(outputs, axis=1)[range(12), labels]))
    assert found.to_dict()["predicted"] == np.bincount(outputs.argmax(axis=1), minlength=4).tolist()


def test_a_network_that_predicts_one_class_whatever_the_image():
    model = nn.Linear(3, 10)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0] * 7 + [20.0] + [0.0] * 2))
    labels = np.arange(128) % 10
    found = logit_gradients(model, np.random.default_rng(1).standard_normal((128, 3)), labels)
    numbers = found.to_dict()
    assert (numbers["share"], numbers["most_frequent"]) == (1.0, 7)
    np.testing.assert_allclose(found.gradient[labels != 7, 7], 1 / 128, rtol=1e-5)
    assert np.shape(numbers["gradient"]) == (128, 10)
    assert "100.0% of 128 images get the most frequent prediction, 7" in found.table()


def test_a_large_matrix_is_left_out_of_the_file():
    found = logit_gradients(nn.Linear(3, 100), np.random.default_rng(1).standard_normal((20, 3)), np.arange(20))
    assert found.gradient.shape == (20, 100) and found.to_dict()["gradient"] is None


def test_images_whose_outputs_are_not_finite_have_no_prediction():
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3e38], [1.0]]))
    found = logit_gradients(model, np.array([[1.0], [10.0], [-1.0], [2.0]]), [0, 0, 1, 0])
    assert found.predictions.tolist() == [0, -1, 1, -1] and found.share == 0.25


def test_other_outputs_are_refused():
    images = np.random.default_rng(0).standard_normal((2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"\(batch, classes\), got \(2, 1, 4, 4\)"):
        logit_gradients(nn.ReLU(), images, [0, 0])
    with pytest.raises(ValueError, match=r"\(batch, classes\), got tuple"):
        logit_gradients(nn.MaxPool2d(2, return_indices=True), images, [0, 0])
