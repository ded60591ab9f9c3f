"""Training against a bare loop of torch, and what streaming probes add to a run."""

import pytest

from bntheory import resnet

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from simulations.training import batches, loop  # noqa: E402
from simulations.training.modules import build  # noqa: E402
from simulations.training.probes import PROBES, STREAMING  # noqa: E402
from simulations.training.recipe import Recipe  # noqa: E402

EVERY = 50  # steps between probes


def recipe(batch_norm, epochs):
    """ResNet-20 on digits, 11 steps an epoch."""
    return Recipe(resnet(20, batch_norm=batch_norm, image=(3, 8, 8)), learning_rate=1e-3, epochs=epochs)


@pytest.fixture(autouse=True)
def one_thread():
    """As the runs of a sweep."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bare(run):
    """The ten lines that anybody writes, with a test after every epoch."""
    learn, test = batches.examples(run, "cpu")
    model, entropy = build(run.net, run.seed), torch.nn.functional.cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), run.learning_rate, run.momentum, weight_decay=run.weight_decay)
    for _ in range(run.epochs):
        for chosen in torch.randperm(len(learn)).split(run.batch_size)[: len(learn) // run.batch_size]:
            images, labels = learn.batch(chosen)
            optimizer.zero_grad()
            entropy(model(images), labels).backward()
            optimizer.step()
        with torch.no_grad():
            entropy(model.eval()(test.batch(torch.arange(len(test)))[0]), test.labels)
        model.train()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_run_and_a_bare_loop(floor, seconds, batch_norm):
    run = recipe(batch_norm, 2)
    bare(run)
    measured, reference = seconds(lambda: loop.train(run, progress=False), lambda: bare(run), rounds=21)
    words = f"ResNet-20{' with BN' if batch_norm else ''} on digits, 2 epochs; reference: a bare loop of torch"
    floor(words, measured, reference=reference, least=0.95)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_four_probes_every_fifty_steps(floor, seconds, batch_norm):
    """Over 99 steps, in which they run twice: a hundredth more often than they need."""
    run, probes = recipe(batch_norm, 9), {name: PROBES[name] for name in STREAMING}
    reference, measured = seconds(
        lambda: loop.train(run, progress=False),
        lambda: loop.train(run, progress=False, probes=probes, probe_every=EVERY),
        rounds=5,
    )
    words = f"four probes every {EVERY} steps of ResNet-20{' with BN' if batch_norm else ''}; reference: without"
    floor(words, measured, reference=reference, least=1 / 1.1)
