"""One flat training loop: probed while it runs, killed and resumed to the same bits, divergence a result."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bntheory import arguments
from bntheory.torch_models.tracing import unchanged_random_states
from simulations import folders, streams
from simulations.ensemble import hidden
from simulations.training import batches, checkpoints, devices
from simulations.training.divergence import first_not_finite, has_diverged
from simulations.training.history import Divergence, History
from simulations.training.modules import build, torch
from simulations.training.recipe import Recipe

Probe = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], Any]
RESULT = "run.json"
PART = 500  # images that are tested at a time


def train(
    recipe: Recipe,
    folder: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    probes: Mapping[str, Probe] | None = None,
    probe_every: int = 50,
    save_every: float = 60.0,
    report: Callable[[History], object] | None = None,
    progress: bool | None = None,
) -> History:
    """Train a network as a recipe says, or go on where a run was interrupted.

    Parameters
    ----------
    recipe : Recipe
    folder : str or Path, optional
        Where ``checkpoint.pt`` and ``run.json`` are kept; made if it is not there. None: nothing is written.
    resume : bool
        Whether to go on from the checkpoint in the folder, if there is one.
    device : {"auto", "cpu", "cuda"}
    probes : mapping of str to callable, optional
        Called as ``probe(model, images, labels)`` with the batch of a step, before it, streaming ones of
        `simulations.training.probes` in one forward pass; what they return, by its ``to_dict()`` if it has one, is kept
        in ``History.probes``. They must leave the model as it is.
    probe_every : int
        Steps from one call of every probe to the next, the first at step 0.
    save_every : float
        Seconds of training between checkpoints, which are also made after every epoch.
    report : callable, optional
        Given the history before the first step and after every epoch.
    progress : bool, optional
        None: a bar on a terminal only.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        For images that do not fit the recipe, a device that is not there, a folder that holds another run (what differs
        is named), this one without `resume`, or a checkpoint that is damaged.

    Notes
    -----
    A run that is killed at any moment and resumed ends with the same bits as one that was not, on the same machine and
    number of threads, and so does one with probes. Torch's global random state is left as it was.

    Examples
    --------
    >>> from bntheory.architectures import mlp
    >>> history = train(Recipe(mlp(2, 32, input_width=64, output_width=10), epochs=2), device="cpu")
    >>> history.outcome, len(history.losses), history.epochs[-1]["train_loss"] < history.losses[0]
    ('trained', 22, True)
    """
    place = devices.resolve(device)
    arguments.integer("probe_every", probe_every)
    arguments.number("save_every", save_every, at_least=0)
    learn, test = batches.examples(recipe, place)
    path = None if folder is None else Path(folder)
    with _held(path, resume), unchanged_random_states(torch.device(place)), devices.reproducible(place):
        run = _Run(recipe, place, (learn, test), path)
        history, saved = run.history, time.monotonic()
        total = history.steps * recipe.epochs
        if path is not None and history.finished:  # it was perhaps killed before it had written that
            folders.write(path / RESULT, folders.json_bytes(history.to_dict()))
        _tell(report, history, place)
        with tqdm(total=total, initial=len(history.losses), unit="step", disable=hidden(progress), leave=False) as bar:
            while not history.finished:
                for images, labels in _rest_of_epoch(run, learn):
                    if probes and len(history.losses) % probe_every == 0:
                        history.probes += _probed(run, probes, images, labels)
                    if not _step(run, images, labels):
                        break
                    bar.update()
                    if path is not None and time.monotonic() - saved > save_every:
                        checkpoints.save(path, run.model, run.optimizer, run.sums, history)
                        saved = time.monotonic()
                else:
                    _close_epoch(run, test)
                if path is not None:
                    checkpoints.save(path, run.model, run.optimizer, run.sums, history)
                    folders.write(path / RESULT, folders.json_bytes(history.to_dict()))
                bar.clear()
                _tell(report, history, place)
    return history


def _tell(report: Callable[[History], object] | None, history: History, place: str) -> None:
    """Report, without a part in the run's random numbers."""
    if report is not None:
        with unchanged_random_states(torch.device(place)):
            report(history)


class _Run:
    """A network, its optimizer and what is known of them: new, or as the checkpoint in a folder has them."""

    def __init__(self, recipe: Recipe, place: str, parts: tuple[batches.Examples, ...], path: Path | None) -> None:
        torch.manual_seed(streams.own_seed(recipe.seed, 0) % 2**63)  # of Dropout alone
        self.recipe, self.place = recipe, place
        self.model = devices.put(build(recipe.net, recipe.seed), place)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.history = History(recipe, parts[0].name, len(parts[0]) // recipe.batch_size)
        self.history.images = [part.digest for part in parts]
        self.sums = dict.fromkeys(checkpoints.SUMS, 0.0)
        if path is not None and (path / checkpoints.NAME).exists():
            self._restore(path / checkpoints.NAME)
        machine = devices.described(place)
        if machine not in self.history.machines:
            self.history.machines.append(machine)
        self.forward = torch.compile(self.model) if recipe.compiled else self.model

    def _restore(self, path: Path) -> None:
        state = checkpoints.read(path)
        checkpoints.check_same(state["history"], self.recipe, path)
        checkpoints.restore(state, path, self.model, self.optimizer)
        new, self.history, self.sums = self.history, state["history"], state["epoch"]
        was, now = (
            f"{one.data}, {one.steps} steps an epoch, SHA-256 {' and '.join(each[:8] for each in one.images)}"
            for one in (self.history, new)
        )
        if was != now:
            raise ValueError(
                f"{path} is of a run on other images: {was} became {now}: put them back, or start in another folder"
            )

    def precision(self) -> torch.autocast:
        """The number format of a forward pass."""
        return torch.autocast(self.place, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")


def _rest_of_epoch(run: _Run, learn: batches.Examples) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of the epoch that are not done."""
    size, done = run.recipe.batch_size, len(run.history.losses) - run.history.steps * len(run.history.epochs)
    chosen, shifts = batches.order(run.recipe, len(run.history.epochs), len(learn))
    chosen, shifts = chosen.to(run.place), None if shifts is None else shifts.to(run.place)
    for step in range(done, run.history.steps):
        part = slice(step * size, (step + 1) * size)
        yield learn.batch(chosen[part], None if shifts is None else shifts[part])


def _step(run: _Run, images: torch.Tensor, labels: torch.Tensor) -> bool:
    """One step down the gradient; False, and no weight changed, where the run has diverged."""
    start, history = time.perf_counter(), run.history
    rate = run.recipe.rate_at(len(history.losses), history.steps * run.recipe.epochs)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    with run.precision():
        outputs = run.forward(images)
        loss = torch.nn.functional.cross_entropy(outputs, labels)
    value = loss.item()
    history.losses.append(value)
    if has_diverged(value, history.losses[0]):
        with run.precision():
            history.divergence = Divergence(len(history.losses) - 1, value, first_not_finite(run.model, images))
        return False
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()
    run.sums["loss"] += value
    run.sums["correct"] += (outputs.argmax(1) == labels).sum().item()
    run.sums["seconds"] += time.perf_counter() - start
    return True


def _probed(
    run: _Run, probes: Mapping[str, Probe], images: torch.Tensor, labels: torch.Tensor
) -> Iterator[dict[str, Any]]:
    from simulations.training.probes import observe

    step = len(run.history.losses)
    try:
        with unchanged_random_states(torch.device(run.place)):
            found = observe(probes, run.model, images, labels)
    except Exception as error:
        error.add_note(f"raised by one of the probes {', '.join(probes)} at step {step}")
        raise
    for name, result in found.items():
        yield {"step": step, "name": name, "result": result.to_dict() if hasattr(result, "to_dict") else result}


def _close_epoch(run: _Run, test: batches.Examples) -> None:
    """Test, and turn the epoch's sums into its results."""
    history, sums = run.history, run.sums
    loss, accuracy = _tested(run, test)
    history.epochs.append(
        {
            "learning_rate": run.recipe.rate_at(len(history.losses) - history.steps, history.steps * run.recipe.epochs),
            "train_loss": sums["loss"] / history.steps,
            "train_accuracy": sums["correct"] / (history.steps * run.recipe.batch_size),
            "test_loss": loss,
            "test_accuracy": accuracy,
            "seconds": sums["seconds"],
        }
    )
    sums.update(dict.fromkeys(checkpoints.SUMS, 0.0))


def _tested(run: _Run, test: batches.Examples) -> tuple[float, float]:
    """Mean loss and accuracy over the images that were held back, in evaluation mode."""
    modes = [(module, module.training) for module in run.model.modules()]
    run.model.eval()
    loss = correct = 0.0
    try:
        with torch.no_grad(), run.precision():
            for images, labels in test.parts(PART):
                outputs = run.forward(images)
                loss += torch.nn.functional.cross_entropy(outputs, labels, reduction="sum").item()
                correct += (outputs.argmax(1) == labels).sum().item()
    finally:
        for module, training in modes:
            module.training = training
    return loss / len(test), correct / len(test)


@contextlib.contextmanager
def _held(path: Path | None, resume: bool) -> Iterator[None]:
    """Keep the folder of a run for this process; a folder with something else in it is refused."""
    if path is None:
        yield
        return
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: a run needs a folder")
    path.mkdir(parents=True, exist_ok=True)
    begun = (path / checkpoints.NAME).exists()
    strange = sorted(file.name for file in path.iterdir() if file.name not in (checkpoints.NAME, RESULT, folders.LOCK))
    strange = [name for name in strange if not name.endswith(folders.UNFINISHED)]
    if not begun and strange:
        raise ValueError(
            f"{path} is not the folder of a run: it has no {checkpoints.NAME} but {', '.join(strange[:3])}"
        )
    if begun and not resume:
        raise ValueError(f"{path} holds a run already: continue it with --resume (resume=True)")
    with folders.locked(path):
        for left in path.glob(f"*{folders.UNFINISHED}"):
            left.unlink()
        yield
