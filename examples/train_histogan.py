"""Train HistoGAN on a folder of real patches, and keep checkpoints and sample grids in a run directory.

    python examples/train_histogan.py --data pcam.zip --split train --counts 1966 1378 --run runs/histogan

The first embedded PCam pool came from this command with its defaults (48×48 pixels, two CPU cores, about an hour).
Called again with the same run directory, it goes on from the last checkpoint.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from synthselect_env.data import draw_per_class, read_class_folders
from synthselect_env.synthesis import HistoGAN, HistoGANConfig

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, required=True, help="class folders, a directory or a zip")
parser.add_argument("--split", help="folder above the class folders, e.g. train")
parser.add_argument("--counts", type=int, nargs="+", help="how many patches of each class (default: all)")
parser.add_argument("--size", type=int, nargs=2, default=(48, 48), metavar=("HEIGHT", "WIDTH"))
parser.add_argument("--steps", type=int, default=HistoGANConfig.steps)
parser.add_argument("--batch-size", type=int, default=HistoGANConfig.batch_size)
parser.add_argument("--width", type=int, default=HistoGANConfig.width)
parser.add_argument("--seed", type=int, default=0, help="of the subset and of the training")
parser.add_argument("--run", type=Path, default=Path("runs/histogan"))
args = parser.parse_args()

real = read_class_folders(args.data, args.split)
if args.counts:
    real = real.subset(draw_per_class(real.labels, args.counts, args.seed))
config = HistoGANConfig(steps=args.steps, batch_size=args.batch_size, width=args.width, seed=args.seed)
checkpoint = args.run / "histogan.pt"
gan = HistoGAN(tuple(args.size), real.classes, config)
if checkpoint.exists():
    saved = HistoGAN.load(checkpoint)
    if (saved.size, saved.classes, replace(saved.config, steps=config.steps)) != (gan.size, gan.classes, config):
        parser.error(
            f"{checkpoint} is of another training ({saved.size}, {saved.classes}, {saved.config}); give its arguments, or another --run"
        )
    gan = saved
    gan.config = config  # more steps may be asked for
print(
    f"{len(real)} patches of {', '.join(real.classes)} at {gan.size[0]}×{gan.size[1]}, {gan.config.steps} steps from {gan.step}, on {gan.device}"
)

with tqdm(total=gan.config.steps, initial=gan.step, unit="step") as bar:
    for losses in gan.fit(real.pixels(gan.size), real.labels, args.run):
        bar.update()
        bar.set_postfix({name: f"{value:.2f}" for name, value in losses.items() if name != "step"}, refresh=False)
print(f"checkpoint and sample grids in {args.run}")
