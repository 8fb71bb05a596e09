"""Write class folders of images that a trained HistoGAN makes.

    python examples/sample_histogan.py --gan runs/histogan/histogan.pt --per-class 2048 --out candidates

The same checkpoint, seed and truncation give the same files on the same device. `build_bank.py --candidates` reads them.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from synthselect_env.synthesis import HistoGAN

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument(
    "--gan", type=Path, required=True, help="checkpoint: histogan.pt or best.pt of a run"
)
parser.add_argument("--per-class", type=int, default=2048, help="pictures of each class")
parser.add_argument(
    "--truncation",
    type=float,
    help="less diverse and more typical pictures, e.g. 1.0 (default: none)",
)
parser.add_argument(
    "--batch-size", type=int, default=128, help="pictures at once, 128 at most; bounds memory"
)
parser.add_argument(
    "--device", default="auto", help="cpu, cuda, or cuda:1; default: a GPU where there is one"
)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

gan = HistoGAN.load(args.gan, args.device)
with tqdm(total=args.per_class * len(gan.classes), unit="picture") as bar:
    gan.sample_to_folders(
        args.out, args.per_class, args.seed, args.truncation, args.batch_size, on_batch=bar.update
    )
print(
    f"{args.per_class} pictures each of {', '.join(gan.classes)}, step {gan.step}, seed {args.seed}, in {args.out}"
)
