"""predict_module: what it says besides numbers, and what it refuses."""

import copy
import json
import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import bntheory as bn
from bntheory.torch_models import tracing
from simulations.training.modules import build


def mlp(*widths):
    torch.manual_seed(0)
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return nn.Sequential(*(part for inside, out in pairs for part in (nn.Linear(inside, out, bias=False), nn.ReLU())))


DESCRIPTIONS = {
    "mlp": bn.mlp(4, 32, bias=0.1),
    "batch-normalized mlp": bn.mlp(3, 16, "gelu", batch_norm=True),
    "residual mlp": bn.mlp(3, 16, "tanh", residual=True),
    "mlp with LayerNorm": bn.mlp(3, 16, layer_norm=True, output_width=5),
    "resnet": bn.resnet(8, image=(3, 8, 8)),
    "resnet with BatchNorm": bn.resnet(8, True, image=(3, 8, 8)),
    "vgg": bn.vgg(11, True, image=(3, 16, 16), channels=8),
    "cnn": bn.cnn(3, 8, "leaky_relu(0.2)", image=(3, 8, 8), classes=4),
}


@pytest.mark.parametrize("word", DESCRIPTIONS)
def test_what_was_built_from_a_description_is_described_by_it(word):
    """Up to the law of the weights, whose second moments are the drawn ones."""
    net = DESCRIPTIONS[word]
    example = torch.randn(4, *net.input_shape)
    found = bn.describe_module(build(net), example, init="he_normal")
    kinds = [[type(leaf.layer).__name__ for leaf in bn.leaves(described)] for described in (found, net)]
    assert kinds[0] == kinds[1]
    assert [leaf.shape for leaf in bn.leaves(found)] == [leaf.shape for leaf in bn.leaves(net)]


def test_a_description_and_its_module_are_predicted_alike():
    """With the variances of the description in place of the drawn ones, all numbers agree to rounding."""
    net = bn.resnet(8, init="he_normal", image=(3, 8, 8))
    batch = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    growth = bn.predict_growth(net, inputs=batch.astype(float))
    module = bn.predict_module(build(net), torch.from_numpy(batch), init="he_normal")
    assert module.shape == growth.shape
    for name in ("log_second_moment", "log_channel_variance", "log_gradient", "log_weight_gradient", "log_growth_std"):
        np.testing.assert_allclose(getattr(module, name), getattr(growth, name), atol=2e-3, err_msg=name)


def test_a_named_law_takes_the_place_of_the_weights():
    model, example = mlp(64, 64, 64), torch.randn(4, 64)
    own, he = bn.predict_module(model, example), bn.predict_module(model, example, init="he_normal")
    # torch's default has a sixth of He's variance: 2 ReLU layers
    assert he.log_second_moment[-1] - own.log_second_moment[-1] == pytest.approx(2 * math.log(6), abs=0.1)
    with torch.no_grad():
        model[2].weight.zero_()  # as many initialize the last layer of a block: which says nothing then
    assert bn.predict_module(model, example, init="he_normal").log_second_moment[-1] == he.log_second_moment[-1]


def test_rows_without_a_rule_are_named_and_the_next_start_from_what_is_measured():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 16)

        def forward(self, x):
            return torch.tanh(self.last(torch.sort(self.first(x), dim=1).values))

    torch.manual_seed(0)
    model, example = Odd(), torch.randn(5, 8)
    growth = bn.predict_module(model, example)
    assert growth.name == ("input", "first", "sort", "last", "tanh")
    assert growth.moment_method == ("exact", "exact", "unsupported", "measured", "measured")
    assert math.isnan(growth.log_second_moment[2])
    with torch.no_grad():
        there = float((torch.sort(model.first(example), dim=1).values ** 2).mean())
    after = there * 32 * float(model.last.weight.detach().square().mean()) + float(
        model.last.bias.detach().square().mean()
    )
    assert growth.log_second_moment[3] == pytest.approx(math.log(after), abs=1e-6)
    assert "sort" in growth.verdict()
    json.dumps(growth.to_dict(), allow_nan=False)


def test_the_verdict_says_what_the_weights_are():
    layer = nn.Linear(64, 64)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.BatchNorm1d(64).eval(), nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.no_grad():
        model[4].weight.add_(0.5)
        model[5].weight[0, 0] = 100.0
    growth = bn.predict_module(model, torch.randn(4, 64))
    text = growth.verdict()
    for words in (
        "weights shared between rows count as independent",
        "the running statistics are used as they are",
        "weights of 1 rows have a mean, which theory takes for 0: most in 4",
        "heavy tails: most in 5",
    ):
        assert words in text, text
    table = growth.weights_table()
    assert table.count("\n") == len(growth.weights) == 4
    assert growth.to_dict()["weights"][1]["shared_with"] == "0"


def test_no_activation_is_kept():
    """The tensor of every row is gone before the second row after it is made, unless the network holds on to it."""
    alive, most = [], []

    def observe(node, tensor, layout):
        alive.append(weakref.ref(tensor))
        most.append(sum(part() is not None for part in alive))

    layers = [part for _ in range(30) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    tracing.run(nn.Sequential(*layers), torch.randn(2, 8, 4, 4), observe=observe)
    assert len(most) == 61 and max(most) <= 4


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(5, 5)

    def forward(self, x):
        return self.second(self.first(x))


def meta():
    return nn.Linear(4, 4, device="meta")


def broken(value):
    model = nn.Sequential(nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.fill_(value)
    return model


REFUSED = {
    "no module": (lambda: "resnet", torch.randn(2, 4), "model must be a torch.nn.Module, got str"),
    "meta": (meta, torch.randn(2, 4), "got weight on the meta device"),
    "lazy": (lambda: nn.LazyLinear(4), torch.randn(2, 4), "lazy parameters: run it once"),
    "integers": (lambda: nn.Linear(4, 4), torch.ones(2, 4, dtype=torch.int64), "got int64 numbers"),
    "words": (lambda: nn.Linear(4, 4), "images", "must be a tensor or an array of numbers, got str"),
    "no example": (lambda: nn.Linear(4, 4), None, "must be a tensor or an array of numbers, got NoneType"),
    "example without numbers": (
        lambda: nn.Linear(4, 4),
        torch.empty(2, 4, device="meta"),
        "got one on the meta device",
    ),
    "sparse": (lambda: nn.Linear(4, 4), torch.eye(4).to_sparse(), r"dense tensor .* got a torch\.sparse_coo one"),
    "complex": (lambda: nn.Linear(4, 4), torch.ones(2, 4, dtype=torch.complex64), "got complex numbers"),
    "one axis": (lambda: nn.Linear(4, 4), torch.randn(4), r"got shape \(4,\)"),
    "five axes": (lambda: nn.Conv3d(1, 1, 1), torch.randn(2, 1, 3, 3, 3), r"got shape \(2, 1, 3, 3, 3\)"),
    "empty": (lambda: nn.Linear(4, 4), torch.randn(0, 4), r"got shape \(0, 4\)"),
    "infinite": (lambda: nn.Linear(4, 4), torch.full((2, 4), math.inf), "got 8 of 8 values"),
    "zero weights": (lambda: broken(0.0), torch.randn(2, 4), "row 0: all 16 weights are zero"),
    "NaN in weights": (lambda: broken(math.nan), torch.randn(2, 4), "row 0: weights must be finite, got 16 of 16"),
    "batch of another size": (lambda: nn.Linear(4, 4), torch.randn(2, 4), "batch_size must be left out"),
    "init": (lambda: nn.Linear(4, 4), torch.randn(2, 4), "init must be one of"),
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_cannot_be_predicted_is_refused(word):
    make, example, message = REFUSED[word]
    settings = {"batch of another size": {"batch_size": 7}, "init": {"init": "he_norma"}}.get(word, {})
    with pytest.raises(ValueError, match=message) as caught:
        bn.predict_module(make(), example, **settings)
    assert not hasattr(caught.value, "__notes__")  # of the module's own errors


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_scripted_modules_are_refused():
    layers, example = nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)
    for made in (torch.jit.script(layers), torch.jit.trace(layers, example)):
        with pytest.raises(ValueError, match="scripted or traced module hides its calls: pass the module"):
            bn.predict_module(made, example)
    with pytest.raises(ValueError, match=r"hides its calls \(part 1\)"):
        bn.predict_module(nn.Sequential(nn.Linear(4, 4), torch.jit.script(layers)), example)


def test_errors_of_the_module_are_its_own():
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        bn.predict_module(Fails(), torch.randn(2, 4))
    assert "after row 'first'" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as caught:
        bn.predict_module(nn.BatchNorm1d(4), torch.randn(1, 4))
    with pytest.raises(RuntimeError, match=r"(?i)half|dtype"):
        bn.predict_module(nn.Linear(4, 4), torch.randn(2, 4).half())


def test_arrays_take_the_type_of_the_parameters():
    growth = bn.predict_module(nn.Linear(4, 4).double(), np.random.default_rng(0).standard_normal((2, 4)))
    assert np.isfinite(growth.log_second_moment).all()


def test_predictions_change_nothing():
    model, example = mlp(8, 8, 8), torch.randn(3, 8)
    model.append(nn.BatchNorm1d(8))
    kept, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    bn.predict_module(model, example)
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
