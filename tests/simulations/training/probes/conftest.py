"""Small networks and batches for the probes."""

import copy
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


class Drifting(nn.Module):
    """Draws noise, normalizes, counts its calls in a buffer and an attribute, and fails at a given call."""

    def __init__(self, fail_at=0):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.count, self.fail_at = 0, fail_at

    def forward(self, h):
        self.calls += 1
        self.count += 1
        h.mul_(2)
        if self.fail_at and self.calls == 1 and random.random() < 2:
            raise RuntimeError("on demand")
        np.random.random()  # noqa: NPY002
        return self.last(nn.functional.dropout(torch.tanh(self.norm(self.first(h))), 0.2, self.training))


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only wait for a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def drifting():
    """The class of a module that changes all that it can."""
    return Drifting


@pytest.fixture
def blobs():
    """12 inputs of 4 numbers in 3 classes."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.standard_normal((12, 4))), torch.from_numpy(rng.integers(3, size=12))


@pytest.fixture
def tanh_net():
    """4 → 3 → 3, smooth, in float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()


@pytest.fixture
def stepped():
    """The model after one step of torch's own SGD: an independent way to θ − αg."""

    def step(model, images, labels, size, loss=nn.functional.cross_entropy):
        copied = copy.deepcopy(model)
        copied.zero_grad()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.enable_grad():
            loss(copied(images), labels).backward()
        torch.optim.SGD(copied.parameters(), lr=size).step()
        for name, buffer in copied.named_buffers():
            buffer.copy_(buffers[name])
        return copied

    return step
