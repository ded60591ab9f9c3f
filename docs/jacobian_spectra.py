"""Draw docs/jacobian_spectra.png: python docs/jacobian_spectra.py."""

from pathlib import Path

from matplotlib.figure import Figure

import bntheory as bn

COLORS = {1: "#0072B2", 5: "#009E73", 20: "#D55E00", 110: "black"}

figure = Figure(figsize=(10, 4), layout="constrained")
left, right = figure.subplots(1, 2)
right.set_xscale("log")
right.set_yscale("log")
for depth, color in COLORS.items():
    law = bn.jacobian_law(bn.mlp(depth=depth, width=512))  # relu, He's initialization
    for axes in (left, right):
        bn.plot_spectrum(law, ax=axes, label=f"{depth} layer{'s' * (depth > 1)}", color=color)
left.set_xlim(0, 12)
right.set(xlim=(1e-6, 40), ylim=(1e-4, 1e4))
figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)
