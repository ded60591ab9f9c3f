"""Noise of mini-batches against all of them, one by one."""

import itertools
import math

import numpy as np
import pytest

import simulations as sim
from bntheory.architectures import resnet
from simulations.statistics import tolerance

torch = pytest.importorskip("torch")
nn, sgd_noise = torch.nn, sim.sgd_noise


def gradient(model, images, labels, loss=nn.functional.cross_entropy):
    """One flat gradient, through .grad, in float64."""
    model.zero_grad()
    loss(model(images), labels).backward()
    flat = torch.cat([own.grad.flatten() for own in model.parameters()]).double().numpy()
    model.zero_grad()
    return flat


def all_batches(model, images, labels, size):
    """Gradients of every mini-batch without replacement."""
    chosen = itertools.combinations(range(len(images)), size)
    return np.array([gradient(model, images[list(few)], labels[list(few)]) for few in chosen])


@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_exact_value_is_that_of_all_subsets(size, chunk, tanh_net, blobs):
    images, labels = (part[:8] for part in blobs)
    found = sgd_noise(tanh_net, images, labels, step=0.3, batch_size=size, batches=4, chunk=chunk)
    whole = gradient(tanh_net, images, labels)
    subsets = ((all_batches(tanh_net, images, labels, size) - whole) ** 2).sum(axis=1).mean()
    assert found.exact == pytest.approx(0.3**2 * subsets, rel=1e-12)
    single = ((all_batches(tanh_net, images, labels, 1) - whole) ** 2).sum(axis=1).mean()
    assert found.variance == pytest.approx(single, rel=1e-12)
    assert found.bound == pytest.approx(0.3**2 * single / size, rel=1e-12) and found.exact <= found.bound
    assert found.squared_gradient == pytest.approx(whole @ whole, rel=1e-12)
    assert (found.step, found.batch_size, found.images, found.mixed) == (0.3, size, 8, "")


def test_samples_agree_with_the_exact_value(tanh_net, blobs):
    """200 mini-batches, false-alarm rate 1e-4; the bound is farther away than that."""
    found = sgd_noise(tanh_net, *blobs, batch_size=6, batches=200, seed=1)
    allowed = tolerance(found.noise_error, 1e-4, degrees_of_freedom=199)
    assert abs(found.noise - found.exact) < allowed
    assert abs(found.noise - found.bound) > 2 * allowed
    few = sgd_noise(tanh_net, *blobs, batch_size=6, batches=5, seed=1).to_dict()
    assert few == sgd_noise(tanh_net, *blobs, batch_size=6, batches=5, seed=1).to_dict()
    assert few["noise"] != sgd_noise(tanh_net, *blobs, batch_size=6, batches=5, seed=2).noise


def test_replacement_meets_the_bound(tanh_net, blobs):
    """Exact: all ordered pairs of 8 images. Sampled: 200 mini-batches of 9 of them, false-alarm rate 1e-4."""
    images, labels = (part[:8] for part in blobs)
    whole = gradient(tanh_net, images, labels)
    pairs = [list(pair) for pair in itertools.product(range(8), repeat=2)]
    squares = [((gradient(tanh_net, images[pair], labels[pair]) - whole) ** 2).sum() for pair in pairs]
    found = sgd_noise(tanh_net, images, labels, batch_size=2, batches=4, replace=True)
    assert found.exact == pytest.approx(np.mean(squares), rel=1e-12) and found.exact == found.bound
    many = sgd_noise(tanh_net, images, labels, batch_size=9, batches=200, replace=True)
    assert abs(many.noise - found.exact * 2 / 9) < tolerance(many.noise_error, 1e-4, degrees_of_freedom=199)
    assert many.noise_error < 0.1 * many.noise and "drawn with replacement" in many.table()


def test_convolutions_in_chunks():
    """vmap and single images of a small ResNet, float32, agree with explicit gradients."""
    model = sim.build(resnet(8, image=(1, 6, 6)), seed=1)
    rng = np.random.default_rng(2)
    images = torch.from_numpy(rng.standard_normal((6, 1, 6, 6))).float()
    labels = torch.from_numpy(rng.integers(10, size=6))
    found = sgd_noise(model, images, labels, batch_size=2, batches=4, chunk=4)
    each = all_batches(model, images, labels, 1)
    assert found.variance == pytest.approx(((each - each.mean(0)) ** 2).sum(1).mean(), rel=1e-4)


class Branching(nn.Module):
    """Asks for a number on the way: vmap refuses that."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, x):
        return self.linear(x) if float(x.detach().sum()) < 1e6 else x


def test_image_by_image_where_vmap_refuses(blobs):
    torch.manual_seed(0)
    model = Branching()
    found = sgd_noise(model, *blobs, batch_size=3, batches=4, chunk=5)
    plain = sgd_noise(model.linear, *blobs, batch_size=3, batches=4, chunk=5)
    assert found.mixed == "" and found.variance == pytest.approx(plain.variance, rel=1e-13)


def test_batch_norm_is_measured_by_mini_batches(blobs):
    """Against all 15 mini-batches: half the mean squared distance of two independent ones; false-alarm rate 1e-4."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Tanh(), nn.Linear(5, 3))
    model, images, labels = model.double(), blobs[0][:6], blobs[1][:6]
    found = sgd_noise(model, images, labels, step=2.0, batch_size=4, batches=200)
    each = all_batches(model, images, labels, 4)
    expected = 4 * ((each - each.mean(0)) ** 2).sum(1).mean()
    assert abs(found.noise - expected) < tolerance(found.noise_error, 1e-4, degrees_of_freedom=99)
    assert found.noise_error < 0.15 * expected
    assert found.mixed == "1 (BatchNorm1d) normalizes with the batch"
    assert found.exact == pytest.approx(found.noise) and math.isnan(found.squared_gradient)
    assert found.variance == pytest.approx(found.noise / 4 * 4 * 5 / 2)  # |B| (N − 1)/(N − |B|)
    assert "from mini-batches alone: 1 (BatchNorm1d)" in found.table()


def test_evaluation_mode_has_images_of_its_own(blobs):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    assert sgd_noise(model.train(), *blobs, batch_size=4, batches=4).mixed
    found = sgd_noise(model.eval(), *blobs, batch_size=4, batches=4)
    each = all_batches(model, *blobs, 1)
    assert found.mixed == "" and found.variance == pytest.approx(((each - each.mean(0)) ** 2).sum(1).mean(), rel=1e-11)


@pytest.mark.parametrize("parts", [(), (nn.ReLU(inplace=True), nn.Linear(4, 3))])
def test_single_images_leave_the_model_and_the_data(parts, drifting, blobs):
    model, images = nn.Sequential(*parts) if parts else drifting().eval(), blobs[0].float()
    given, state = images.clone(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = sgd_noise(model, images, blobs[1], batch_size=4, batches=4)
    assert found.mixed == "" and getattr(model, "count", 0) == 0 and torch.equal(images, given)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    each = all_batches(model, images.clone(), blobs[1], 1)
    assert found.variance == pytest.approx(((each - each.mean(0)) ** 2).sum(1).mean(), rel=1e-5)


def test_masks_and_sums_are_said_to_mix(tanh_net, blobs):
    dropping = nn.Sequential(nn.Linear(4, 30), nn.Dropout(0.5), nn.Linear(30, 3)).double()
    assert "the mean of their own losses" in sgd_noise(dropping, *blobs, batch_size=4, batches=4).mixed
    whole = sgd_noise(tanh_net, *blobs, nn.CrossEntropyLoss(reduction="sum"), batch_size=4, batches=4)
    assert whole.mixed.startswith("the loss of 8 images is ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "step must be finite and above 0, got 0"),
        ({"step": math.nan}, "step must be finite and above 0, got nan"),
        ({"batch_size": 12}, "batch_size must be at most 11, got 12"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batches": 3}, "batches must be at least 4, got 3"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"replace": 1}, "replace must be True or False, got 1"),
        ({"loss": lambda o, t: o.mean() / 0}, "the loss must be finite, got -?(nan|inf)"),
    ],
)
def test_refusals(options, message, tanh_net, blobs):
    with pytest.raises(ValueError, match=message):
        sgd_noise(tanh_net, *blobs, **{"batch_size": 4, "batches": 4, **options})
    with pytest.raises(ValueError, match="noise needs at least 2 images, got 1"):
        sgd_noise(tanh_net, blobs[0][:1], blobs[1][:1])
