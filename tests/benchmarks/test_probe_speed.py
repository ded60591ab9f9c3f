"""What a streaming probe costs, in training steps: at most 5, so that one every 50 steps adds at most a tenth."""

import statistics
import time

import pytest

from bntheory import resnet

torch = pytest.importorskip("torch")
images_for = pytest.importorskip("simulations.training.datasets").images_for
build = pytest.importorskip("simulations.training.modules").build
probes = pytest.importorskip("simulations.training.probes")
PROBES = {name: probes.PROBES[name] for name in probes.STREAMING}
STEPS, REPEATS = 5, 15


def seconds(function):
    """Median CPU time of a call, the first left out."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


@pytest.mark.parametrize("batch_norm", [False, True])
def test_probes_of_resnet_20_on_digits(batch_norm, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = build(resnet(20, batch_norm=batch_norm, image=(3, 8, 8)))
    inputs = images_for((3, 8, 8), "digits", 128)
    images, labels = torch.from_numpy(inputs.values).float(), torch.from_numpy(inputs.labels)
    optimizer = torch.optim.SGD(model.parameters(), 1e-5, momentum=0.9, weight_decay=1e-4)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    unit = seconds(step)
    costs = {name: seconds(lambda probe=probe: probe(model, images, labels)) / unit for name, probe in PROBES.items()}
    torch.set_num_threads(threads)
    with capsys.disabled():
        print(f"\nbatch_norm={batch_norm}, steps of {1000 * unit:.1f} ms:", {k: round(v, 2) for k, v in costs.items()})
    assert max(costs.values()) <= STEPS
