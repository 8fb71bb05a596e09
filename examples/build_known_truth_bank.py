"""Build an embedded bank of known truth: the cervical phantom, or PCam patches with planted flaws.

    python examples/build_known_truth_bank.py cervical --short-side 32 --out cervical.h5
    python examples/add_retrainings.py --bank cervical.h5 --n 32
    python examples/build_known_truth_bank.py pcam-planted --out pcam-planted.h5
    python examples/add_retrainings.py --bank pcam-planted.h5

These commands made the embedded banks of these names. The bank stores features and recipes; images are rendered, or taken from the embedded PCam bank and spoilt, when they are asked for.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from synthselect_env import FeatureBank
from synthselect_env.bank.embedded import planted_pcam
from synthselect_env.bank.extraction import EXTRACTOR, extract_bank, train_extractor
from synthselect_env.data import cervical_phantom, phantom_candidates

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("name", choices=("cervical", "pcam-planted"))
parser.add_argument("--epochs", type=int, default=EXTRACTOR.epochs, help="of the extractor")
parser.add_argument(
    "--steps-per-epoch",
    type=int,
    default=30,
    help="a few hundred training pictures are passed too quickly",
)
parser.add_argument(
    "--short-side",
    type=int,
    default=min(EXTRACTOR.size),
    help="pixels the extractor sees on the shorter side",
)
parser.add_argument(
    "--device", default="auto", help="cpu, cuda, or cuda:1; default: a GPU where there is one"
)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

if args.name == "cervical":
    pictures = {**cervical_phantom(args.seed), "candidates": phantom_candidates(seed=args.seed + 1)}
    provenance = {
        "pictures": "a phantom, drawn by synthselect_env.data.phantom: not tissue",
        "seed": args.seed,
    }
else:
    pictures = planted_pcam(seed=args.seed)
    provenance = {
        "pictures": "patches of the embedded PCam bank (PatchCamelyon, CC0), flaws planted into the candidates",
        "seed": args.seed,
    }

short = (args.short_side, args.short_side)
config = replace(EXTRACTOR, epochs=args.epochs, steps_per_epoch=args.steps_per_epoch, size=short)
config = config.for_images(*pictures["train"].image_size)
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
extract_bank(pictures, extractor, provenance).save(args.out, half=True)
print(FeatureBank.load(args.out).describe())
