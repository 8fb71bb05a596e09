"""Measure how well changed copies of images are told from other images.

    python benchmarks/near_copies.py     # three minutes on two cores

Copies are test patches of the embedded PCam bank that are flipped or turned, and also cropped or
brightened. The other images are its real train patches and its HistoGAN candidates.

Results: benchmarks/results/near_copies.md
"""

from __future__ import annotations

import argparse

import numpy as np
from machine import describe_machine, markdown_row, markdown_table
from PIL import Image, ImageEnhance

from synthselect_env import load_bank
from synthselect_env.data import decode, find_near_copies, near_copies

CHANGES = ((), ("brightened",), ("cropped",), ("cropped", "brightened"))
SHARES = (0.9, 0.92, 0.95, 0.97)
"""Thresholds."""


def changed(pixels: np.ndarray, changes: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Return an image flipped or turned at random, and changed further.  uint8 (h, w, 3)"""
    turned = np.rot90(pixels, rng.integers(4))
    image = Image.fromarray(np.ascontiguousarray(turned[:, :: rng.choice([-1, 1])]))
    if "cropped" in changes:
        side = round(image.width * rng.uniform(0.8, 1))
        left, top = rng.integers(0, image.width - side + 1, 2)
        cropped = image.crop((left, top, left + side, top + side))
        image = cropped.resize(image.size, Image.Resampling.BICUBIC)
    if "brightened" in changes:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast):
            image = enhance(image).enhance(rng.uniform(0.7, 1.3))
    return np.asarray(image)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=300, help="copies of each kind")
    parser.add_argument("--others", type=int, default=2000, help="other images of each kind")
    args = parser.parse_args()
    bank, rng = load_bank("pcam"), np.random.default_rng(0)
    assert bank.test is not None and bank.test.images is not None
    test = decode(bank.test.images)
    pools = {
        " and ".join(("flipped", *changes)): np.stack(
            [changed(image, changes, rng) for image in test[: args.images]]
        )
        for changes in CHANGES
    }
    for name in ("train", "candidates"):
        images = bank.splits[name].images
        assert images is not None
        pools[f"no copies: {name}"] = decode(images[: args.others])

    print(describe_machine())
    header = ["images", "n", *(f"found at {share}" for share in SHARES), "of these, right original"]
    print(markdown_table(header))
    lowest, near_copies.THRESHOLD = near_copies.THRESHOLD, min(SHARES)
    for name, pool in pools.items():
        pairs = find_near_copies(pool, test)
        correlations = np.array([pair.correlation for pair in pairs])
        right = [pair.copy == pair.original for pair in pairs if pair.correlation >= lowest]
        cells = [name, f"{len(pool):,}"]
        cells += [f"{(correlations >= share).sum() / len(pool):.2%}" for share in SHARES]
        cells.append("" if name.startswith("no") else f"{np.mean(right):.1%}")
        print(markdown_row(cells), flush=True)
