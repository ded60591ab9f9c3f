"""Simulation without weights: its time and memory beside explicit weights and torch, how they scale, what it is for.

Explicit weights are drawn for two networks at a time, on two cores (14 GB at n = 4096, L = 50); drawing takes most of
their time. torch computes in float32 on all cores; its weights, 3 GB at a depth of 50, stay in memory and are drawn
again in place for every network.
"""

import math
import subprocess
import sys
import time

import numpy as np
import pytest

from bntheory import mlp
from bntheory.activations import activation
from bntheory.layers import BatchNorm, Dense
from bntheory.networks import Sequential
from simulations import simulate_growth
from simulations.ensemble import cores
from simulations.statistics import mean_with_error

WIDTH = 4096  # but where another is named


def without_weights(net, trials, **options):
    """What simulates so many networks, run once, which compiles and fills the memory."""

    def run():
        simulate_growth(net, trials, method="conditional", seed=0, **options)

    run()
    return run


def with_weights(net, **options):
    """What simulates two networks."""
    return lambda: simulate_growth(net, 2, method="weights", workers=2, seed=0, **options)


class TorchNetwork:
    """ReLU layers of torch with weights drawn anew in the same memory for every run, there and back."""

    def __init__(self, depth):
        self.torch = pytest.importorskip("torch")
        self.torch.set_num_threads(cores())
        self.weights = [self.torch.zeros(WIDTH, WIDTH) for _ in range(depth)]

    def run(self, batch, batch_norm=False, weight_gradients=True):
        torch, functional = self.torch, self.torch.nn.functional
        inputs = torch.randn(batch, WIDTH, requires_grad=True)
        h = inputs
        for weight in self.weights:
            weight.requires_grad_(False).normal_(0, math.sqrt(2 / WIDTH)).requires_grad_(weight_gradients)
            h = functional.linear(h, weight)
            if batch_norm:
                h = functional.batch_norm(h, None, None, training=True)
            h = torch.relu(h)
        loss = torch.sum(h * torch.randn_like(h))
        torch.autograd.grad(loss, [inputs, *(self.weights if weight_gradients else [])])


def test_ten_thousand_networks_in_a_second(seconds, floor):
    """One input, there and back: a few numbers a layer."""
    net, trials = mlp(100, 1000), 10_000
    ours, explicit = seconds(without_weights(net, trials), with_weights(net), rounds=3)
    floor("10,000 ReLU networks of 100 × 1000 units, one input", ours, most=1)
    words = "a ReLU network of 100 × 1000 units, one input, beside explicit weights"
    floor(words, ours / trials, "s", explicit / 2, least=5000)


@pytest.mark.parametrize("batch, depth, gradients, rounds", [(2, 20, False, 3), (8, 50, True, 2)])
def test_a_hundred_times_faster_than_explicit_weights(seconds, floor, batch, depth, gradients, rounds):
    net, options = mlp(depth, WIDTH), {"batch": batch, "gradients": gradients}
    conditional = without_weights(net, 16, workers=2, **options)
    ours, explicit = seconds(conditional, with_weights(net, **options), rounds=rounds)
    words = f"ReLU, {depth} × 4096 units, batch of {batch}, {'there and back' if gradients else 'forward'}"
    floor(f"{words}, beside explicit weights", ours / 16, "s", explicit / 2, least=100)


@pytest.mark.parametrize("weight_gradients", [True, False])
def test_fifty_times_faster_than_torch(seconds, floor, weight_gradients):
    """Also without torch's gradients by the weights, which take half its time."""
    network = TorchNetwork(50)
    network.run(8, weight_gradients=weight_gradients)
    conditional = without_weights(mlp(50, WIDTH), 16, batch=8, workers=2)
    ours, torch = seconds(conditional, lambda: network.run(8, weight_gradients=weight_gradients), rounds=3)
    words = "ReLU, 50 × 4096 units, batch of 8, there and back, beside torch in float32"
    floor(words + ("" if weight_gradients else " without its ∂/∂W"), ours / 16, "s", torch, least=50)


def test_batch_norm_against_torch(seconds, floor):
    """The cost grows as B², that of torch hardly while it draws weights."""
    network, net = TorchNetwork(30), mlp(30, WIDTH, batch_norm=True)
    network.run(8)
    for batch, trials, least in ((8, 16, None), (32, 8, 15), (128, 2, 2), (256, 2, None)):
        conditional = without_weights(net, trials, batch=batch, workers=2)
        ours, torch = seconds(conditional, lambda batch=batch: network.run(batch, batch_norm=True), rounds=3)
        words = f"BN-ReLU, 30 × 4096 units, batch of {batch}, there and back, beside torch in float32"
        floor(words, ours / trials, "s", torch, least)


def test_where_torch_becomes_faster(seconds, floor):
    """The batch at which both take the same time, interpolated in the logarithms; no floor."""
    network, net, batches, logs = TorchNetwork(4), mlp(4, WIDTH, batch_norm=True), (128, 256, 512), []
    for batch in batches:
        network.run(batch, batch_norm=True)
        conditional = without_weights(net, 4, batch=batch, workers=2)
        ours, torch = seconds(conditional, lambda batch=batch: network.run(batch, batch_norm=True), rounds=3)
        logs.append(math.log(4 * torch / ours))
    crossing = np.exp(np.interp(0, logs[::-1], np.log(batches[::-1])))
    floor("BN-ReLU, 4 × 4096 units: batch at which torch is as fast" + ", if not more" * (logs[-1] > 0), crossing, "")
    assert logs == sorted(logs, reverse=True)


MILLION = """
import re, time
from bntheory import mlp
from simulations import simulate_growth

options = {"trials": 1, "batch": 8, "method": "conditional", "gradients": False}
simulate_growth(mlp(2, 64), **options)
start = time.perf_counter()
simulate_growth(mlp(100, 1_000_000), **options)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(time.perf_counter() - start, int(peak) * 1024 / 1e9)
"""


def test_a_million_units(floor):
    """In a process of its own, whose highest memory is measured."""
    command = [sys.executable, "-c", MILLION]
    taken, peak = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    floor("ReLU, 100 × 1,000,000 units, batch of 8, forward", taken, most=60)
    floor("the same: highest memory", peak, "GB", most=1.5)


def exponent(values, run):
    """Slope of ln seconds against ln value; the least processor time, on one thread, of three sweeps."""

    def taken(value):
        start = time.process_time()  # the cost, whatever else the machine does
        run(value)
        return time.process_time() - start

    run(values[0])
    times = np.min([[taken(value) for value in values] for _ in range(3)], axis=0)
    return np.polyfit(np.log(values), np.log(times), 1)[0]


def test_cost_is_linear_in_depth_width_and_trials(floor):
    def run(depth, width, trials):
        simulate_growth(mlp(depth, width), trials, batch=8, method="conditional", workers=1, seed=0)

    exponents = {
        "depth": exponent([25, 50, 100, 200], lambda depth: run(depth, 2048, 8)),
        "width": exponent([1024, 2048, 4096, 8192], lambda width: run(25, width, 8)),
        "trials": exponent([8, 16, 32, 64], lambda trials: run(25, 2048, trials)),
    }
    for name, power in exponents.items():
        floor(f"batch of 8, there and back: exponent of the time in {name}", power, "", least=0.85, most=1.15)


def test_two_threads(seconds, floor):
    runs = [without_weights(mlp(50, 2048), 64, batch=8, workers=workers) for workers in (2, 1)]
    two, one = seconds(*runs)
    floor("64 networks of 50 × 2048 units, batch of 8, on two threads, beside one", two, "s", one, least=1.7)


def relu_growth(batch):
    """Growth of the squared gradient per BN-ReLU layer at infinite width, ε = 0 (Yang et al. 2019), for B > 3.

    Over a batch, normalised Gaussians have correlation ρ = −1/(B − 1); k₁ and P are E φ(u)φ(v) and P(u, v > 0).
    """
    rho = -1 / (batch - 1)
    angle = math.pi - math.acos(rho)
    k1, p = (math.sqrt(1 - rho**2) + rho * angle) / (2 * math.pi), angle / (2 * math.pi)
    bracket = (batch - 3) / 2 + 1 / batch + (batch - 1) / batch * (p + k1)
    return batch / ((batch - 1) * (batch - 3) * (0.5 - k1)) * bracket


def linear_growth(batch):
    """The same without activations."""
    return (batch - 2) / (batch - 3)


@pytest.mark.parametrize("name, batch", [("relu", 8), ("relu", 32), ("relu", 128), ("linear", 8), ("linear", 32)])
def test_batch_norm_gradients_grow(floor, name, batch):
    """ln(E |g|² below / E |g|² above) over the layers between, away from input and output; finite width is biased."""
    depth, low, high, trials = 24, 6, 20, {8: 200, 32: 60, 128: 8}[batch]
    net = Sequential((Dense(WIDTH), BatchNorm(0.0), activation(name)) * depth, (WIDTH,))
    samples = simulate_growth(net, trials, batch=batch, method="conditional", seed=0)
    squares = np.exp(samples.log_gradient[:, [3 * low, 3 * high]])
    means = squares.mean(axis=0)
    expected = {"relu": relu_growth, "linear": linear_growth}[name](batch)
    growth = (means[0] / means[1]) ** (1 / (high - low))
    error = mean_with_error(np.diff(squares / means, axis=1)[:, 0]).standard_error / (high - low)
    words = f"BN-{name}, 24 × 4096 units, batch of {batch}: growth of squared gradients a layer, off the law by"
    floor(words, 100 * abs(growth / expected - 1), "%", most=1)
    assert error < 0.002
