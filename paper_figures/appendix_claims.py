"""Claims of the paper, and of later work on its subject, judged by the appendices."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import norm

from paper_figures import appendix_draws, appendix_gradient_explosion, appendix_initializations, appendix_sgd_noise
from paper_figures.appendix_input_conditioning import SHOWN, best
from paper_figures.values import paper_values
from paper_figures.verdicts import Claim, judged

ALIKE = 0.1  # in ½ ln⟨h²⟩


def condition_number(data: dict[str, Any]) -> list[Claim]:
    """Judge how condition numbers depend on depth."""
    part, counts = data["products"][data["width"]], data["counts"]
    logs = (part["ends"][..., 0] - part["ends"][..., 1]).mean(axis=0)
    deepest = {kind: found["drawn"][:, -1].mean() for kind, found in data["networks"].items()}
    largest = part["ends"][..., 0].mean(axis=0)
    words = f"{counts[-1]} matrices of width {data['width']}"
    return [
        judged(
            "text",
            "the condition number of products grows with their number: shallow ones are better conditioned",
            ("in words (from memory)", f"ln κ at most {part['bound'][-1]:.0f} for {words}", f"{logs[-1]:.0f}"),
            bool(np.all(np.diff(logs) > 0)) and logs[-1] > logs[0] * counts[-1] / 10,
            f"Exponentially. The largest value grows while M ≪ N only, to ln σ₁ = {largest.max():.1f}, and is back at "
            f"{largest[-1]:.1f} at M = {counts[-1]}. Networks of {data['depths'][-1]} layers or blocks have ln κ = "
            f"{deepest['relu']:.0f} (ReLU), {deepest['relu_bn']:.0f} with BN, {deepest['residual']:.0f} with "
            f"shortcuts, {deepest['residual_bn']:.0f} with both.",
        )
    ]


def draws(data: dict[str, Any]) -> list[Claim]:
    """Judge the paper's figures 3 and 2 by networks of the size that its figure 5 shows."""
    known, (mean, deviation), count = paper_values(), data["law"], len(data["size"])
    steps = known["figure3"]["nobn"]["step_where_relative_loss_passes_1e3"]
    reach = known["figure2"]["nobn"]["support_half_width"]
    part, interval = data["diverging_step"], appendix_draws.interval
    step, usual, gradient = interval(part), interval(part["usual"]), interval(data["half_width"])
    passed = all(check.passed for check in appendix_draws.check(data))  # the power of e^size, and not a usual step
    below = (data["paper"] - mean) / deviation
    return [
        judged(
            "beyond the paper",
            "without BN the step at which it passes 1000, for a network of the size in figure 5",
            (f"{steps[0]:g} to {steps[-1]:g} (by eye)", "as e^(−size)", _interval(step, "")),
            passed and bool(step[0] <= np.median(steps) <= step[2]),
            f"95% of networks of that size, from {count} draws, which go as e^(−{-part['slope']:.2f} size); of "
            f"theory's mean size {_interval(usual, '')}. The paper's is {-below:.1f} of theory's deviations below "
            f"that: {norm.cdf(below):.0%} of draws are as small by its law. "
            "Reproduced means the median of its three steps.",
        ),
        judged(
            "beyond the paper",
            "range of gradients without BN, for a network of the size in figure 5",
            (f"±{reach:g} (by eye)", "as e^size", _interval(gradient, "±")),
            bool(gradient[0] <= reach <= gradient[2]),
            f"95% of networks of that size, from {count} draws. The size explains a part of the distance only.",
            known=True,
        ),
    ]


def _interval(ends: np.ndarray, sign: str) -> str:
    """Middle and ends."""
    low, middle, high = (f"{sign}{value:.2g}" for value in ends)
    return f"{middle} ({low} … {high})"


def gradient_explosion(data: dict[str, Any]) -> list[Claim]:
    """Judge what BN does to growth with depth, in residual networks and in plain ones."""
    bn, nobn = (appendix_gradient_explosion.total(data[name]) for name in ("resnet_bn", "resnet"))
    found = data["rates"]
    plain = [rate for batch, rate in found["plain"].items() if batch > appendix_gradient_explosion.HEAVY]
    exponents = [rate for batch, rate in found["residual"].items() if batch > appendix_gradient_explosion.HEAVY]
    sizes = ", ".join(str(batch) for batch in found["plain"] if batch > appendix_gradient_explosion.HEAVY)
    network, blocks = f"ResNet-{data['resnet_depth']}", (data["resnet_depth"] - 2) // 6
    return [
        judged(
            "text",
            "with BN activations do not grow uncontrollably with depth",
            (
                "in words (abstract, from memory)",
                "√depth, anew in every stage",
                f"ln of the square +{bn.activation:.1f}",
            ),
            bn.activation < min(nobn.activation, np.log1p(blocks)),
            f"{network} at initialization on digits; allowed: ln(1 + {blocks} blocks of a stage). Without BN "
            f"+{nobn.activation:.1f}. Gradients, for a given one at the output, rise by e^{bn.gradient:.1f} "
            f"with BN and by e^{nobn.gradient:.1f} without: in residual networks BN leaves them a power of depth.",
        ),
        judged(
            "later work",
            "in networks without shortcuts BN makes gradients explode (Yang et al. 2019)",
            (
                "– (its networks are residual)",
                f"× {', '.join(f'{np.exp(rate.theory):.2f}' for rate in plain)} a layer at batches of {sizes}",
                f"× {', '.join(f'{np.exp(rate.mean):.2f} ± {np.exp(rate.mean) * rate.error:.2f}' for rate in plain)}",
            ),
            all(rate.mean > 0.1 for rate in plain),
            "Squared gradients of ReLU perceptrons, which keep their size without BN (arXiv:1902.08129). With "
            "residual blocks they grow as depth to the power "
            f"{', '.join(f'{rate.mean:.2f}' for rate in exponents)}.",
        ),
    ]


def input_conditioning(data: dict[str, Any]) -> list[Claim]:
    """Judge whether normalizing every sample, or BN, helps with inputs of wildly varying scale."""
    raw, sample, batch = (best(data, treatment, SHOWN).mean() for treatment in ("raw", "sample", "batch"))
    within = best(data, "batch", SHOWN, "batch_accuracy").mean()
    what = f"inputs of scales e^({SHOWN:g}ξ)"
    values = ("the idea, in words (from memory)", "no spread is left", f"{sample:.1%} of test digits, {raw:.1%} raw")
    why = "Perceptrons on digits, the best of eight rates, means of three seeds."
    with_bn = (
        "– (not its subject)",
        "small samples collapse onto one another",
        f"{batch:.1%} of test digits, {sample:.1%} with each normalized, {raw:.1%} raw",
    )
    return [
        judged("related work", f"{what}: normalizing each sample helps", values, sample > raw, why),
        judged(
            "related work",
            f"{what}: BN does not replace that",
            with_bn,
            batch < min(sample, raw) - 0.02,
            f"In its own batches {within:.1%}. BN divides by what the largest samples of a batch set. {why}",
        ),
    ]


def sgd_noise(data: dict[str, Any]) -> list[Claim]:
    """Judge the bound without BN, and what stands for it with BN."""
    checks = appendix_sgd_noise.check(data)
    exact = all(check.passed for check in checks if check.what.startswith("no BN"))
    sizes = ", ".join(map(str, data["sizes"]))
    where = f"{data['setting'].splitlines()[0].split(',')[0]}, {data['images']} images, |B| = {sizes}"

    def words(kind: str, series: str) -> str:
        pairs = zip(data[kind][series]["ratio"], data[kind][series]["error"], strict=True)
        return ", ".join(f"{ratio:.2f} ± {error:.2f}" for ratio, error in pairs)

    theory = ", ".join(f"{value:.2f}" for value in data["exact"])
    return [
        judged(
            "text",
            "SGD's noise stays below its bound α²C/|B|, without BN",
            ("in words", f"noise/bound {theory}; with replacement 1", words("nobn", "without")),
            exact,
            f"{where}; with replacement {words('nobn', 'with')}. As large as theory says, within errors.",
        ),
        judged(
            "text",
            "SGD's noise stays below its bound α²C/|B|, with BN and C of images alone",
            ("in words", "no theorem: ∇ℓ_B is not a mean over images", words("bn", "without")),
            bool(np.all(_excess(data) <= 0)),
            "Noise around the mean step over what stands for the bound. Images of a mini-batch normalize one another: "
            "an image has no gradient of its own, and the noise is not that of a mean of independent ones.",
            known=True,
        ),
    ]


def _excess(data: dict[str, Any]) -> np.ndarray:
    """What the noise with BN has above the bound, beyond its error, relative to the bound."""
    from simulations.statistics import tolerance

    part = data["bn"]["without"]
    freedom = data["batches"] // 2 - 1  # measured by pairs
    return part["ratio"] - 1 - tolerance(part["error"], appendix_sgd_noise.FALSE_ALARM, degrees_of_freedom=freedom)


def initializations(data: dict[str, Any]) -> list[Claim]:
    """Judge whether growth depends on the initialization, without BN and with it."""
    names = appendix_initializations.INITS
    rise = {init: (np.mean(data["nobn"][init]["measured"], axis=0), data["nobn"][init]["mean"]) for init in names}
    measured, theory = (
        ", ".join(f"{rise[init][which][-1] - rise[init][which][0]:+.1f}" for init in names) for which in (0, 1)
    )
    levels = np.array([np.mean(data["bn"][init]["measured"], axis=0) for init in names])
    apart = float(np.ptp(levels, axis=0).max())
    listed = ", ".join(names.values())
    return [
        judged(
            "beyond the paper",
            "without BN activations grow with depth, of any initialization",
            ("shown for one", f"½ ln⟨h²⟩ from first to last block {theory}", measured),
            all(mean[-1] > mean[0] for mean, _ in rise.values()),
            f"{listed}; ResNet-{data['depth']}, digits, means of {data['draws']} networks. With torch's default, of "
            "the smallest weights, they hardly grow within a stage, and lose more at each projection.",
            known=True,
        ),
        judged(
            "beyond the paper",
            "with BN the size of activations does not depend on the initialization",
            ("shown for one", "one law", f"at most {apart:.2f} apart in ½ ln⟨h²⟩"),
            apart < ALIKE,
            f"Block outputs; largest difference of means of {data['draws'] // 2} networks at any block.",
        ),
    ]
