"""The cervical phantom: images rendered a second, and a image of its grades and flaws.

python benchmarks/phantom.py --figure benchmarks/figures/phantom.jpg
"""

import argparse
import time
from pathlib import Path

import numpy as np
from machine import describe_machine

from agents.report import save_figure
from agents.report.plotting import new_figure
from synthselect_env.data import cervical_phantom, phantom_candidates
from synthselect_env.data.flaws import FLAWS
from synthselect_env.data.phantom import GRADES

COLUMNS = 8

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--figure", type=Path)
args = parser.parse_args()
print(describe_machine())
real, pool = cervical_phantom()["train"], phantom_candidates()

rates = []
for i in range(args.repeats):
    start = time.perf_counter()
    real.images[100 * i : 100 * (i + 1)].decode()
    rates.append(100 / (time.perf_counter() - start))
print(
    f"{np.median(rates):.0f} pictures a second in one process ({min(rates):.0f} to {max(rates):.0f}, n = {args.repeats} times 100)"
)

if args.figure:
    rows = [
        (grade, real.images[np.flatnonzero(real.labels == i)[:COLUMNS]])
        for i, grade in enumerate(GRADES)
    ]
    flawed = [
        (
            flaw,
            np.flatnonzero(pool.flaw == i)[:: max(1, (pool.flaw == i).sum() // COLUMNS)][:COLUMNS],
        )
        for i, flaw in enumerate(FLAWS)
    ]
    rows += [
        (f"candidate: {flaw}", pool.images[index])
        for flaw, index in flawed
        if flaw in ("blur and noise", "wrong stain", "torn")
    ]
    figure = new_figure(1.0 * COLUMNS, 2.2 * len(rows))
    for axes, (title, images) in zip(figure.subplots(len(rows), 1), rows):
        tiles = np.pad(images.decode(), ((0, 0), (0, 0), (2, 2), (0, 0)), constant_values=255)
        axes.imshow(np.concatenate(list(tiles), axis=1))
        axes.set_title(f"{title} (phantom: rendered, not tissue)", loc="left", fontsize=9, pad=3)
        axes.set_axis_off()
    save_figure(figure, args.figure)
