"""Simulation without weights: its time and memory beside explicit weights and torch, how they scale, what it is for.

Every ratio is of times taken in one run, after a run that compiles and fills the memory. Explicit weights at n = 4096
are drawn for one network on one core, then for two on two (14 GB), and the faster counts; drawing takes most of the
time. torch computes in float32 on all cores; its weights, 3 GB at a depth of 50, stay in memory and are drawn again in
place for every network.
"""

import math
import statistics
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


def seconds(function, *words, **options):
    start = time.perf_counter()
    function(*words, **options)
    return time.perf_counter() - start


def conditional_seconds(net, trials, rounds=3, **options):
    """Time a network takes: the median of some rounds."""
    options = {"method": "conditional", "seed": 0, **options}
    simulate_growth(net, trials, **options)
    return statistics.median(seconds(simulate_growth, net, trials, **options) for _ in range(rounds)) / trials


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

    def seconds(self, *words, rounds=2, **options):
        self.run(*words, **options)
        return statistics.median(seconds(self.run, *words, **options) for _ in range(rounds))


def test_ten_thousand_networks_in_a_second():
    """One input, n = 1000, L = 100: a few numbers a layer."""
    net, trials = mlp(100, 1000), 10_000
    conditional = conditional_seconds(net, trials)
    explicit = seconds(simulate_growth, net, 2, method="weights", seed=0) / 2
    print(
        f"\none input, n = 1000, L = 100: {trials} networks in {conditional * trials:.2f} s, "
        f"explicit weights {explicit:.2f} s a network: {explicit / conditional:.0f} times faster"
    )
    assert conditional * trials < 1
    assert explicit > 5000 * conditional


def test_a_hundred_times_faster_than_explicit_weights():
    """A batch of 8, n = 4096, L = 50; torch also without its gradients by the weights, which take half its time."""
    net = mlp(50, WIDTH)
    conditional = conditional_seconds(net, 16, batch=8, workers=2)
    network = TorchNetwork(50)
    torch = network.seconds(8)
    lean = network.seconds(8, weight_gradients=False)
    del network
    explicit = min(
        seconds(simulate_growth, net, workers, batch=8, method="weights", workers=workers, seed=0) / workers
        for workers in (1, 2)
    )
    others = {"explicit weights": explicit, "torch": torch, "torch without gradients by the weights": lean}
    line = ", ".join(f"{name} {other:.1f} s ({other / conditional:.0f} times)" for name, other in others.items())
    print(f"\nB = 8, n = {WIDTH}, L = 50, a network: conditional {1000 * conditional:.1f} ms, {line}")
    assert explicit > 100 * conditional
    assert min(torch, lean) > 50 * conditional


def test_batch_norm_against_torch():
    """L = 30, n = 4096: the cost grows as B², that of torch hardly while it draws weights."""
    network, net, ratios = TorchNetwork(30), mlp(30, WIDTH, batch_norm=True), {}
    network.run(8)
    for batch, trials in {8: 16, 32: 8, 64: 4, 128: 2, 256: 2}.items():
        conditional = conditional_seconds(net, trials, rounds=1, batch=batch, workers=2)
        torch = statistics.median(seconds(network.run, batch, batch_norm=True) for _ in range(2))
        ratios[batch] = torch / conditional
    line = ", ".join(f"{ratio:.1f} at B = {batch}" for batch, ratio in ratios.items())
    print(f"\nBN-ReLU, n = {WIDTH}, L = 30: torch / conditional {line}")
    assert ratios[32] > 15
    assert ratios[128] > 2


def test_where_torch_becomes_faster():
    """The batch at which both take the same time, interpolated in the logarithms; no floor."""
    network, net, batches, logs = TorchNetwork(4), mlp(4, WIDTH, batch_norm=True), (128, 256, 512), []
    for batch in batches:
        conditional = conditional_seconds(net, 4, rounds=2, batch=batch, workers=2)
        logs.append(math.log(network.seconds(batch, batch_norm=True) / conditional))
    crossing = np.exp(np.interp(0, logs[::-1], np.log(batches[::-1])))
    line = ", ".join(f"{math.exp(log):.2f} at B = {batch}" for batch, log in zip(batches, logs, strict=True))
    where = f"beyond B = {batches[-1]}" if logs[-1] > 0 else f"at B = {crossing:.0f}, B/n = {crossing / WIDTH:.3f}"
    print(f"\nBN-ReLU, n = {WIDTH}, L = 4: torch / conditional {line}; equal {where}")
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


def test_a_million_units():
    """Forward through 100 layers, a batch of 8, in a process of its own, whose highest memory is measured."""
    command = [sys.executable, "-c", MILLION]
    taken, peak = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    print(f"\nn = 1,000,000, L = 100, B = 8, forward: {taken:.1f} s, {peak:.2f} GB")
    assert taken < 60
    assert peak < 1.5


def exponent(values, run):
    """Slope of ln seconds against ln value; the least processor time, on one thread, of three sweeps."""

    def taken(value):
        start = time.process_time()  # the cost, whatever else the machine does
        run(value)
        return time.process_time() - start

    run(values[0])
    times = np.min([[taken(value) for value in values] for _ in range(3)], axis=0)
    return np.polyfit(np.log(values), np.log(times), 1)[0]


def test_cost_is_linear_in_depth_width_and_trials():
    def run(depth, width, trials):
        simulate_growth(mlp(depth, width), trials, batch=8, method="conditional", workers=1, seed=0)

    exponents = {
        "L": exponent([25, 50, 100, 200], lambda depth: run(depth, 2048, 8)),
        "n": exponent([1024, 2048, 4096, 8192], lambda width: run(25, width, 8)),
        "trials": exponent([8, 16, 32, 64], lambda trials: run(25, 2048, trials)),
    }
    print("\ntime as a power, B = 8: " + ", ".join(f"{name}^{power:.3f}" for name, power in exponents.items()))
    assert all(0.85 < power < 1.15 for power in exponents.values())


def test_two_threads():
    """n = 2048, L = 50, B = 8; the least time of each, taken in turn."""
    times = {1: [], 2: []}
    for _ in range(6):  # of which the first warms up
        for workers, taken in times.items():
            options = {"batch": 8, "method": "conditional", "workers": workers, "seed": 0}
            taken.append(seconds(simulate_growth, mlp(50, 2048), 64, **options))
    one, two = (min(taken[1:]) for taken in times.values())
    print(f"\nthreads: one {one:.2f} s, two {two:.2f} s: {one / two:.2f} times faster")
    assert one > 1.7 * two


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
def test_batch_norm_gradients_grow(name, batch):
    """ln(E |g|² below / E |g|² above) over the layers between, away from input and output; finite width is biased."""
    depth, low, high, trials = 24, 6, 20, {8: 200, 32: 60, 128: 8}[batch]
    net = Sequential((Dense(WIDTH), BatchNorm(0.0), activation(name)) * depth, (WIDTH,))
    samples = simulate_growth(net, trials, batch=batch, method="conditional", seed=0)
    squares = np.exp(samples.log_gradient[:, [3 * low, 3 * high]])
    means = squares.mean(axis=0)
    expected = {"relu": relu_growth, "linear": linear_growth}[name](batch)
    growth = (means[0] / means[1]) ** (1 / (high - low))
    error = mean_with_error(np.diff(squares / means, axis=1)[:, 0]).standard_error / (high - low)
    print(f"\nBN-{name}, B = {batch}: gradients grow {growth:.4f} ± {growth * error:.4f} a layer, law {expected:.4f}")
    assert error < 0.002
    assert abs(growth / expected - 1) < 0.01
