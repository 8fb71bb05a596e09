"""Build a feature bank from real patches and a trained HistoGAN: the extractor, the candidates, the features, one file.

    python examples/train_histogan.py --data pcam.zip --split train --counts 1966 1378 --against valid --run runs/histogan
    python examples/build_bank.py --data pcam.zip --counts 1966 1378 --gan runs/histogan/histogan.pt --out pcam.h5

These two commands, and add_retrainings.py after them, made the embedded PCam bank (but that its candidates are stored at quality 90).
With --candidates DIR, a folder of class folders takes the GAN's place.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from synthselect_env import FeatureBank
from synthselect_env.bank.extraction import (
    EXTRACTOR,
    extract_bank,
    train_extractor,
    training_digest,
)
from synthselect_env.data import EncodedImages, Dataset, draw_per_class, read_class_folders
from synthselect_env.synthesis import HistoGAN
from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.classifier import Classifier

QUALITY = 80
"""Of all images as WebP, so that it tells no candidate from a real one; saves a third of the space and is invisible at the extractor's size."""

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument(
    "--data",
    type=Path,
    required=True,
    help="train/, valid/ and test/ with class folders, a directory or a zip",
)
parser.add_argument(
    "--group",
    help="patient or slide of a real patch: a regular expression that finds it in the file's name, e.g. '^[^_]+'",
)
parser.add_argument(
    "--classes",
    nargs="+",
    help="class folders in label order; of two, the second is the positive one (default: by name)",
)
parser.add_argument(
    "--counts", type=int, nargs="+", help="how many train patches of each class (default: all)"
)
parser.add_argument("--gan", type=Path, help="HistoGAN checkpoint to sample the candidates from")
parser.add_argument("--candidates", type=Path, help="class folders of candidates, instead of --gan")
parser.add_argument("--per-class", type=int, default=2048, help="candidates a class from the GAN")
parser.add_argument(
    "--truncation",
    type=float,
    help="of the GAN's latents: less diverse and more typical candidates, e.g. 1.0",
)
parser.add_argument(
    "--size",
    type=int,
    nargs=2,
    help="pixels the extractor sees, height and width (default: 48 on the shorter side)",
)
parser.add_argument(
    "--epochs",
    type=int,
    default=EXTRACTOR.epochs,
    help="passes of the extractor over the train split",
)
parser.add_argument(
    "--steps-per-epoch", type=int, help="of the extractor (default: a pass, and 30 at least)"
)
parser.add_argument(
    "--augmentation",
    choices=AUGMENTATIONS,
    default=EXTRACTOR.augmentation,
    help="of the extractor's training pictures",
)
parser.add_argument(
    "--extractor",
    type=Path,
    help="where the extractor is kept, and read from when it exists (default: beside OUT)",
)
parser.add_argument(
    "--origin", default="", help="a line on where the real patches come from, for the provenance"
)
parser.add_argument(
    "--device", default="auto", help="cpu, cuda, or cuda:1; default: a GPU where there is one"
)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()
if bool(args.gan) == bool(args.candidates):
    parser.error("give either --gan or --candidates")
if args.truncation is not None and not args.gan:
    parser.error("--truncation is of --gan; a folder of candidates is taken as it is")

# Real patches, kept at their own resolution.
real: dict[str, Dataset] = {
    "train": read_class_folders(args.data, "train", tuple(args.classes or ()) or None, args.group)
}
classes = real["train"].classes
real |= {
    split: read_class_folders(args.data, split, classes, args.group) for split in ("valid", "test")
}
if args.counts:
    real["train"] = real["train"].subset(
        draw_per_class(real["train"].labels, args.counts, args.seed)
    )
for name, split in real.items():
    if len(np.unique(split.labels)) < (len(classes) if name == "train" else 2):
        parser.error(
            f"{name} lacks pictures of a class; the train split needs some of each, the others of two at least"
        )

# Candidates, by the class they were asked for.
if args.gan:
    gan = HistoGAN.load(args.gan, args.device)
    if gan.classes != classes:
        parser.error(
            f"{args.gan} makes {', '.join(gan.classes)}, the patches are {', '.join(classes)}"
        )
    labels = np.repeat(np.arange(len(classes)), args.per_class)
    images = gan.sample(labels, args.seed, truncation=args.truncation)
    ids = tuple(f"{classes[y]}-{i % args.per_class:04d}" for i, y in enumerate(labels))
    candidates = Dataset.of_images(images, labels, ids, classes)
    made_by = {
        "generator": "HistoGAN",
        "size": gan.size,
        **asdict(gan.config),
        "steps": gan.step,
        "sampling_seed": args.seed,
    }
    made_by |= {"truncation": args.truncation} if args.truncation is not None else {}
else:
    candidates = read_class_folders(args.candidates, classes=classes)
    made_by = {"generator": args.candidates.name}

# Before the extractor is trained, so that what is wrong with them shows at once, and all of it.
pictures: dict[str, Dataset] = {}
broken: list[str] = []


def one_by_one(split: Dataset, name: str) -> Iterator[np.ndarray]:
    for i in tqdm(range(len(split)), desc=f"encode {name}"):  # their sizes may differ
        try:
            yield split.subset(np.array([i])).pixels()[0]
        except ValueError as error:
            broken.append(f"{name}: {error}")


for name, split in {**real, "candidates": candidates}.items():
    pictures[name] = replace(split, images=EncodedImages.encode(one_by_one(split, name), QUALITY))
if broken:
    parser.error("\n".join(["these pictures cannot be read:", *broken]))

# The extractor sees the real train split only; the validation split chooses its epoch.
config = replace(
    EXTRACTOR,
    epochs=args.epochs,
    steps_per_epoch=args.steps_per_epoch,
    augmentation=args.augmentation,
)
config = (
    replace(config, size=tuple(args.size))
    if args.size
    else config.for_images(*pictures["train"].image_size)
)
kept = args.extractor or args.out.with_suffix(".extractor.pt")
if kept.exists():
    extractor = Classifier.load(kept, args.device)
    asked = replace(
        config, steps_per_epoch=args.steps_per_epoch or extractor.config.steps_per_epoch
    )
    if extractor.config != asked or extractor.trained_on != training_digest(
        pictures["train"], args.seed
    ):
        parser.error(
            f"{kept} was trained on other pictures, by another seed, or otherwise ({extractor.config}); delete it, or give another --extractor"
        )
else:
    with tqdm(total=args.epochs, desc="extractor", unit="epoch") as bar:

        def report(epoch: int, metrics: dict[str, float]) -> None:
            bar.update()
            bar.set_postfix(
                valid_accuracy=f"{metrics['accuracy']:.3f}",
                valid_log_likelihood=f"{metrics['log_likelihood']:.3f}",
            )

        extractor = train_extractor(
            pictures["train"], pictures["valid"], args.seed, config, args.device, on_epoch=report
        )
    extractor.save(kept)
figures = {metric: max(values) for metric, values in extractor.history.items()}
if figures["balanced_accuracy"] < 1.2 / len(classes):
    print(
        f"warning: the extractor hardly tells the classes apart (validation balanced accuracy {figures['balanced_accuracy']:.2f}), so that "
        "its features say little; try more --steps-per-epoch or --epochs"
    )

provenance = {"real": args.origin or args.data.name, "candidates": made_by, "seed": args.seed}
extract_bank(pictures, extractor, provenance).save(args.out, half=True)
print(FeatureBank.load(args.out).describe())
