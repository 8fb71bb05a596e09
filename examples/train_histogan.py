"""Train HistoGAN on a folder of real patches, and keep checkpoints and sample grids in a run directory.

    python examples/train_histogan.py --data pcam.zip --split train --counts 1966 1378 --against valid --run runs/histogan

The embedded PCam pool came from this command with its defaults (48×48 pixels, two CPU cores, 52 minutes). A small
network learns the patches first, for the discriminator to look through. Called again with the same run directory, it goes on from the
last checkpoint. The Fréchet distance in losses.csv is on the features of a small ResNet18 that is trained on the same patches (not the
Inception FID), and swings; histogan.pt is the last checkpoint, whose learning rate has come down to zero, best.pt the one where the distance
was smallest: what is left of a training that collapsed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from synthselect_env.bank.extraction import LEAST_STEPS, training_digest
from synthselect_env.data import apportion, decode, draw_per_class, read_class_folders
from synthselect_env.synthesis import CollapseError, HistoGAN, HistoGANConfig
from synthselect_env.training.classifier import QUICK, Classifier, train_classifier

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", type=Path, required=True, help="class folders, a directory or a zip")
parser.add_argument("--split", help="folder above the class folders, e.g. train")
parser.add_argument(
    "--counts", type=int, nargs="+", help="how many patches of each class (default: all)"
)
parser.add_argument(
    "--size",
    type=int,
    nargs=2,
    metavar=("HEIGHT", "WIDTH"),
    help="multiples of 16 (default: 48 on the shorter side, in the patches' proportions)",
)
parser.add_argument(
    "--upright", action="store_true", help="the patches have an up: none is flipped or transposed"
)
parser.add_argument("--steps", type=int, default=HistoGANConfig.steps)
parser.add_argument("--batch-size", type=int, default=HistoGANConfig.batch_size)
parser.add_argument("--width", type=int, default=HistoGANConfig.width)
parser.add_argument(
    "--pretraining-steps",
    type=int,
    default=HistoGANConfig.pretraining_steps,
    help="of the network that the discriminator looks through",
)
parser.add_argument(
    "--against",
    metavar="SPLIT",
    help="patches to take the Fréchet distance to, e.g. valid (default: those of training)",
)
parser.add_argument(
    "--frechet",
    type=int,
    default=1024,
    metavar="N",
    help="as many of them at most, and generated ones; 0 for no distance",
)
parser.add_argument(
    "--save-every",
    type=int,
    default=500,
    help="steps between checkpoints, sample grids and Fréchet distances",
)
parser.add_argument(
    "--device", default="auto", help="cpu, cuda, or cuda:1; default: a GPU where there is one"
)
parser.add_argument("--seed", type=int, default=0, help="of the subset and of the training")
parser.add_argument("--run", type=Path, default=Path("runs/histogan"))
args = parser.parse_args()

real = read_class_folders(args.data, args.split)
if args.counts:
    real = real.subset(draw_per_class(real.labels, args.counts, args.seed))
config = HistoGANConfig(
    args.steps, args.batch_size, args.width, seed=args.seed, pretraining_steps=args.pretraining_steps,
    random_flips=not args.upright,
)  # fmt: skip
checkpoint = args.run / "histogan.pt"
shorter = min(real.image_size)
size = (
    tuple(args.size)
    if args.size
    else tuple(16 * max(1, round(3 * side / shorter)) for side in real.image_size)
)
gan = HistoGAN(size, real.classes, config, args.device)
if checkpoint.exists():
    saved = HistoGAN.load(checkpoint, args.device)
    if (saved.size, saved.classes, replace(saved.config, steps=config.steps)) != (
        gan.size,
        gan.classes,
        config,
    ):
        parser.error(
            f"{checkpoint} is of another training ({saved.size}, {saved.classes}, {saved.config}); give its arguments, or another --run"
        )
    gan = saved
    gan.config = config  # more steps may be asked for
print(
    f"{len(real)} patches of {', '.join(real.classes)} at {gan.size[0]}×{gan.size[1]}, {gan.config.steps} steps from {gan.step}, on {gan.device}"
)

features, reference = None, None
if args.frechet:
    # A network for the features: whole passes over few patches, and no more than 800 steps over many. It stays with the run, so that
    # the distances of a resumed run are those of before.
    recipe = replace(
        QUICK.for_images(*gan.size),
        steps_per_epoch=min(100, max(LEAST_STEPS, len(real) // QUICK.batch_size)),
    )
    recipe = replace(recipe, augmentation="traditional") if args.upright else recipe
    learned = training_digest(real, args.seed)
    if (args.run / "extractor.pt").exists():
        extractor = Classifier.load(args.run / "extractor.pt", args.device)
        if (extractor.config, extractor.trained_on) != (recipe, learned):
            parser.error(
                f"{args.run / 'extractor.pt'} is of other patches or arguments; give those, or another --run"
            )
    else:
        pixels = real.pixels(recipe.size)
        pictures = (pixels, real.labels)
        extractor = train_classifier(
            *pictures, *pictures, len(real.classes), args.seed, recipe, args.device, scored_epochs=0
        )
        extractor.trained_on = learned
        extractor.save(args.run / "extractor.pt")

    def features(images: np.ndarray) -> np.ndarray:
        return extractor.features(decode(images, recipe.size))

    against = read_class_folders(args.data, args.against, real.classes) if args.against else real
    against = against.subset(
        draw_per_class(
            against.labels, apportion(against.labels, min(args.frechet, len(against))), args.seed
        )
    )
    reference = against.pixels(gan.size), against.labels

images = real.pixels(gan.size)
if not gan.pretrained:
    with tqdm(total=gan.config.pretraining_steps, desc="pretraining", unit="step") as bar:
        for row in gan.pretrain(images, real.labels):
            bar.update()
            bar.set_postfix(
                contrast=f"{row['contrast']:.2f}",
                cross_entropy=f"{row['cross_entropy']:.2f}",
                refresh=False,
            )
    gan.save(checkpoint)
with tqdm(total=gan.config.steps, initial=gan.step, unit="step") as bar:
    distance: dict[str, float] = {}
    try:
        for row in gan.fit(images, real.labels, args.run, args.save_every, features, reference):
            bar.update()
            distance = {"frechet": row["frechet"]} if "frechet" in row else distance
            bar.set_postfix(
                {
                    name: f"{value:.2f}"
                    for name, value in (row | distance).items()
                    if name != "step"
                },
                refresh=False,
            )
    except (CollapseError, FloatingPointError, ValueError) as error:
        raise SystemExit(f"{error} ({args.run})") from error
print(f"checkpoints, losses.csv and sample grids in {args.run}")
