"""The user's own network: predicted growth beside measured networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paper_figures.checks import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRIALS = 100


def compute(
    target: str,
    sizes: tuple[int, ...] | None,
    data: str = "digits",
    batch: int = 8,
    trials: int = TRIALS,
    seed: int = 0,
) -> dict[str, Any]:
    """Predict a network's growth on images, and measure redraws of it in PyTorch.

    Parameters
    ----------
    target : str
        "package.module:factory", or a checkpoint, as `bntheory crosscheck` takes it.
    sizes : tuple of int, optional
        Shape of one input; a module needs it, a checkpoint has its own.
    data : str
        "digits", "fashion-mnist", "noise" or a folder.
    batch, trials : int
        Inputs, and networks to measure.
    seed : int

    Returns
    -------
    dict
        "network", "images" in words, and "result", a `Crosscheck`.

    Raises
    ------
    ValueError
        If the target is nothing that can be read or run, or a module comes without sizes.
    """
    from bntheory.commands import own_errors
    from simulations.training.datasets import images_for
    from simulations.training.targets import crosscheck_target, found_target

    found = found_target(target, seed)
    shape = sizes or found.shape
    if shape is None:
        raise ValueError(f"--model {target} needs the shape of one input: --input 3,32,32, for example")
    images = images_for(shape, data, batch, seed)
    with own_errors():
        result = crosscheck_target(found, images.values, trials, seed)
    treatment = f" ({images.treatment})" if images.treatment else ""
    return {"network": found.words, "images": f"{batch} {images.name} inputs{treatment}", "result": result}


def title(data: dict[str, Any]) -> str:
    """Return the heading."""
    return f"Your network: {data['network']}"


def text(data: dict[str, Any]) -> str:
    """Return the verdict, and a sentence on what it is of."""
    result = data["result"]
    return (
        f"{result.verdict()} Mean square of the activations of {data['network']}, row by row: what theory predicts "
        f"from its layers and the sizes of its weights, and what {result.measured.trials} networks with weights drawn "
        f"anew have, measured in PyTorch, both on {data['images']}."
    )


def check(data: dict[str, Any]) -> list[Check]:
    """Every row that theory speaks about must agree."""
    result = data["result"]
    what = f"rows of {int(result.compared.sum())} where theory and measurement disagree"
    return [Check(what, "0", float(result.disagreeing.sum()), result.agrees)]


def draw(data: dict[str, Any]) -> Figure:
    """Draw prediction, band and measured networks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.6))
    axes = data["result"].plot(figure.subplots())
    axes.set_title(f"{data['result'].measured.trials} networks on {data['images']}", fontsize="medium", wrap=True)
    return figure
