"""Build a feature bank from real patches and a trained HistoGAN: the extractor, the candidates, the features, one file.

    python examples/train_histogan.py --data pcam.zip --split train --counts 1966 1378 --against valid --run runs/histogan
    python examples/build_bank.py --data pcam.zip --counts 1966 1378 --gan runs/histogan/histogan.pt --out pcam.h5

These two commands, and add_retrainings.py after them, made the embedded PCam bank. With --candidates DIR, a folder of class
folders takes the GAN's place.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from synthselect_env import FeatureBank
from synthselect_env.classifier import Classifier
from synthselect_env.data import EncodedImages, LabelledImages, draw_per_class, read_class_folders
from synthselect_env.data.augment import AUGMENTATIONS
from synthselect_env.extraction import EXTRACTOR, extract_bank, train_extractor
from synthselect_env.synthesis import HistoGAN

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, required=True, help="train/, valid/ and test/ with class folders, a directory or a zip")
parser.add_argument(
    "--group", help="patient or slide of a real patch: a regular expression that finds it in the file's name, e.g. '^[^_]+'"
)
parser.add_argument("--counts", type=int, nargs="+", help="how many train patches of each class (default: all)")
parser.add_argument("--gan", type=Path, help="HistoGAN checkpoint to sample the candidates from")
parser.add_argument("--candidates", type=Path, help="class folders of candidates, instead of --gan")
parser.add_argument("--per-class", type=int, default=2048, help="candidates a class from the GAN")
parser.add_argument("--truncation", type=float, help="of the GAN's latents: less diverse and more typical candidates, e.g. 1.0")
parser.add_argument("--size", type=int, nargs=2, help="pixels the extractor sees, height and width (default: 48 on the shorter side)")
parser.add_argument("--folds", type=int, default=0, help="cross-fit: see train patches by networks that were trained without them")
parser.add_argument("--epochs", type=int, default=EXTRACTOR.epochs, help="passes of the extractor over the train split")
parser.add_argument("--augmentation", choices=AUGMENTATIONS, default=EXTRACTOR.augmentation, help="of the extractor's training pictures")
parser.add_argument("--extractor", type=Path, help="where the extractor is kept; read from there when it exists")
parser.add_argument("--origin", default="", help="a line on where the real patches come from, for the provenance")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()
if bool(args.gan) == bool(args.candidates):
    parser.error("give either --gan or --candidates")
if args.truncation is not None and not args.gan:
    parser.error("--truncation is of --gan; a folder of candidates is taken as it is")

# Real patches, kept at their own resolution; quality 80 saves a third of the space and is invisible at the extractor's size.
real: dict[str, LabelledImages] = {"train": read_class_folders(args.data, "train", group=args.group)}
classes = real["train"].classes
real |= {split: read_class_folders(args.data, split, classes, args.group) for split in ("valid", "test")}
if args.counts:
    real["train"] = real["train"].subset(draw_per_class(real["train"].labels, args.counts, args.seed))

# Candidates, by the class they were asked for; before the extractor is trained, so that what is wrong with them shows at once.
if args.gan:
    gan = HistoGAN.load(args.gan)
    if gan.classes != classes:
        parser.error(f"{args.gan} makes {', '.join(gan.classes)}, the patches are {', '.join(classes)}")
    labels = np.repeat(np.arange(len(classes)), args.per_class)
    images = EncodedImages.encode(gan.sample(labels, args.seed, truncation=args.truncation), quality=90)
    ids = tuple(f"{classes[y]}-{i % args.per_class:04d}" for i, y in enumerate(labels))
    candidates = LabelledImages(images, labels, ids, classes)
    made_by = {"generator": "HistoGAN", "size": gan.size, **asdict(gan.config), "steps": gan.step, "sampling_seed": args.seed}
    made_by |= {"truncation": args.truncation} if args.truncation is not None else {}
else:
    candidates = read_class_folders(args.candidates, classes=classes)
    made_by = {"generator": args.candidates.name}

pictures: dict[str, LabelledImages] = {}
for name, split in real.items():
    one_by_one = (split.subset(np.array([i])).pixels()[0] for i in tqdm(range(len(split)), desc=f"encode {name}"))  # sizes may differ
    pictures[name] = replace(split, images=EncodedImages.encode(one_by_one, quality=80))
pictures["candidates"] = candidates

# The extractor sees the real train split only; the validation split chooses its epoch.
if args.extractor and args.extractor.exists():
    extractor = Classifier.load(args.extractor)
    if extractor.n_classes != len(classes) or (args.size and extractor.config.size != tuple(args.size)):
        parser.error(
            f"{args.extractor} was trained for {extractor.n_classes} classes at {extractor.config.size}; give --size to match, or another file"
        )
else:
    config = replace(EXTRACTOR, epochs=args.epochs, augmentation=args.augmentation)
    config = replace(config, size=tuple(args.size)) if args.size else config.for_pictures(*pictures["train"].picture_size)
    with tqdm(total=args.epochs, desc="extractor", unit="epoch") as bar:

        def report(epoch: int, metrics: dict[str, float]) -> None:
            bar.update()
            bar.set_postfix(valid_accuracy=f"{metrics['accuracy']:.3f}", valid_log_likelihood=f"{metrics['log_likelihood']:.3f}")

        extractor = train_extractor(pictures["train"], pictures["valid"], args.seed, config, on_epoch=report)
    if args.extractor:
        extractor.save(args.extractor)

provenance = {"real": args.origin or args.data.name, "candidates": made_by, "seed": args.seed}
with tqdm(total=args.folds * extractor.config.epochs, desc="folds", unit="epoch", disable=not args.folds) as bar:
    bank = extract_bank(pictures, extractor, provenance, args.folds, args.seed, on_epoch=lambda epoch, metrics: bar.update())
bank.save(args.out, half=True)
print(FeatureBank.load(args.out).describe())
