"""How good are generated candidates?  Fréchet distance, what a classifier learns from them, the class they show, and memorisation.

    python benchmarks/generator_quality.py                                    # the candidates of the embedded PCam bank
    python benchmarks/generator_quality.py --gan runs/histogan/histogan.pt    # a checkpoint's, beside that bank's real images

Features are those of a ResNet that is trained on the real train split (at first, a few minutes): the Fréchet distance is **not** the
Inception FID. It depends on the number of images, hence equal numbers on both sides, beside the distance of two halves of the real
images. Real images are the held-out ones, of the validation and test splits: a network sees those that it was trained on more
clearly than any others. Trained networks are kept in runs/.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from machine import describe_machine
from PIL import Image

from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.bank.extraction import EXTRACTOR, train_extractor
from synthselect_env.data import Dataset, decode, draw_per_class
from synthselect_env.data.images import images_digest
from synthselect_env.storage import atomic_write, library_digest
from synthselect_env.synthesis import (
    HistoGAN,
    frechet_distance,
    nearest_distances,
    share_closer,
    image_grid,
)
from synthselect_env.training.classifier import QUICK, Classifier, TrainingConfig, train_classifier

THUMBNAIL = (16, 16)
"""Pixels in which copies are looked for: coarse enough to forgive a shift by a pixel and noise, fine enough to place nuclei."""

PAIRS = 24
"""Generated images in the figure, those nearest to a training image for their contrast."""


def mean_std(values: list[float], digits: int = 3) -> str:
    """``mean ± standard deviation``; the mean alone of a single value."""
    return f"{np.mean(values):.{digits}f}" + (
        f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    )


def frechet_against_floor(
    generated: np.ndarray, real: np.ndarray, train: np.ndarray, draws: int, seed: int = 0
) -> dict[str, list[float]]:
    """Distances of samples of one size n: generated, other real and training images, each to a random half of the real ones.

    :param generated: features (g, d)
    :param real: features of real images that neither the generator nor the network was trained on (r, d)
    :param train: features of the training images (t, d)
    :param draws: random halves
    :param seed: of the draws
    :return: "generated", "real" (the floor) and "train": a distance a draw; "n": the size
    """
    n = min(len(real) // 2, len(generated), len(train))
    rng = np.random.default_rng(seed)
    distances: dict[str, list[float]] = {"generated": [], "real": [], "train": [], "n": [n]}
    for _ in range(draws):
        order = rng.permutation(len(real))
        half, other = real[order[:n]], real[order[n : 2 * n]]
        distances["real"].append(frechet_distance(other, half))
        for name, features in (("generated", generated), ("train", train)):
            distances[name].append(
                frechet_distance(features[rng.permutation(len(features))[:n]], half)
            )
    return distances


def stratified(labels: np.ndarray, shares: np.ndarray, seed: int = 0) -> np.ndarray:
    """The largest set with the given shares of the classes: positions, increasing.

    The Fréchet distance of all classes together would otherwise measure the shares.
    """
    counts = np.bincount(labels, minlength=len(shares))
    total = (counts[shares > 0] / shares[shares > 0]).min()
    return draw_per_class(labels, np.floor(total * shares + 1e-9).astype(int).tolist(), seed)


def orientations(images: np.ndarray) -> list[np.ndarray]:
    """The images flipped and turned: all 8 ways for squares, 4 otherwise.  (n, h, w, 3) each

    The generator is trained on all of them, so a copy can be of any.
    """
    flipped = [images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]]
    return flipped + (
        [x.swapaxes(1, 2) for x in flipped] if images.shape[1] == images.shape[2] else []
    )


def nearest_picture(
    queries: list[np.ndarray], training: np.ndarray, skip_own: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest training vector over all forms of each query, and which one that is.

    :param queries: forms of the same images, (n, d) each
    :param training: (m, d)
    :param skip_own: the queries are the training images themselves; look among the others
    :return: (n,), (n,)
    """
    distances, positions = map(
        np.stack, zip(*(nearest_distances(form, training, skip_own) for form in queries))
    )
    best = distances.argmin(0)[None]
    return np.take_along_axis(distances, best, 0)[0], np.take_along_axis(positions, best, 0)[0]


@dataclass(frozen=True)
class Memorisation:
    """Distances to the nearest training image, of generated, held-out real, and other training images.

    :param generated: (g,)
    :param held_out: (r,)
    :param train: (t,), each training image to the nearest other one
    :param nearest: which training image is the nearest to each generated one (g,)
    """

    generated: np.ndarray
    held_out: np.ndarray
    train: np.ndarray
    nearest: np.ndarray

    @property
    def shares(self) -> tuple[float, float]:
        """Of the generated images closer than the 1st percentile of held-out to training, and of training to other training images."""
        return share_closer(self.generated, self.held_out), share_closer(self.generated, self.train)


def memorisation(
    generated: list[np.ndarray], held_out: list[np.ndarray], training: list[np.ndarray]
) -> Memorisation:
    """Measure nearness to the training images.

    :param generated: forms of the generated images as vectors, (g, d) each
    :param held_out: of real images that the generator never saw, (r, d) each
    :param training: of the training images, (t, d) each, the first as they are
    """
    distances, nearest = nearest_picture(generated, training[0])
    held = nearest_picture(held_out, training[0])[0]
    return Memorisation(
        distances, held, nearest_picture(training, training[0], skip_own=True)[0], nearest
    )


def thumbnails(images: np.ndarray) -> list[np.ndarray]:
    """Images in all orientations, as vectors of 16×16 pixels of 0..1 scaled so that distances are root mean squares.  (n, 768) each"""
    side = (
        images.shape[1] == images.shape[2]
    )  # a thumbnail is square; the image decides how it may be turned
    forms = orientations(decode(images, THUMBNAIL) / 255)
    return [
        form.reshape(len(images), -1) / np.sqrt(form[0].size)
        for form in (forms if side else forms[:4])
    ]


def over_contrast(
    found: Memorisation, generated: np.ndarray, held_out: np.ndarray, training: np.ndarray
) -> Memorisation:
    """Distances of thumbnails as multiples of each image's own contrast.

    Blank glass lies near blank glass, generated or real: in plain distances the nearest pairs are all of that kind.

    :param generated: thumbnails of the generated images as vectors (g, 768)
    :param held_out: of the held-out real images (r, 768)
    :param training: of the training images (t, 768)
    """
    grey_level = 1 / 255
    g, r, t = (
        np.maximum(x.std(1) * np.sqrt(x.shape[1]), grey_level)
        for x in (generated, held_out, training)
    )
    return Memorisation(found.generated / g, found.held_out / r, found.train / t, found.nearest)


def kept(directory: Path, name: str, key: str, train: Callable[[], Classifier]) -> Classifier:
    """Read a trained network, or train and keep it."""
    file = (
        directory
        / f"{name}-{hashlib.sha256(f'{key} {library_digest()}'.encode()).hexdigest()[:12]}.pt"
    )
    if not file.exists():
        train().save(file)
    return Classifier.load(file)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    return (
        "\n".join(
            "| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]
        ).replace("| --- ", "|---")
        + "\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bank", default="pcam", help="its real pictures, and its candidates unless --gan"
    )
    parser.add_argument(
        "--gan", type=Path, help="HistoGAN checkpoint to judge instead of the bank's candidates"
    )
    parser.add_argument(
        "--per-class", type=int, default=2048, help="pictures of each class from --gan"
    )
    parser.add_argument("--truncation", type=float, help="of the latents of --gan")
    parser.add_argument("--seed", type=int, default=0, help="of the latents of --gan")
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="classifiers trained on generated, and on real pictures",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=10,
        help="random halves of the real pictures for the Fréchet distance",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke test: few pictures and steps; the figures mean nothing",
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        help=f"picture of the {PAIRS} nearest generated pictures above their training pictures",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("runs/generator_quality"),
        help="directory for trained networks",
    )
    args = parser.parse_args()

    bank = resolve_bank(args.bank)
    try:
        parts = bank.pictures
    except ValueError as error:
        parser.error(str(error))
    classes = tuple(bank.classes)
    made_by = f"the candidates of {args.bank}"
    if args.gan:
        gan = HistoGAN.load(args.gan)
        if gan.classes != classes:
            parser.error(
                f"{args.gan} makes {', '.join(gan.classes)}, the bank has {', '.join(classes)}"
            )
        labels = np.repeat(np.arange(len(classes)), args.per_class)
        pictures = gan.sample(labels, args.seed, truncation=args.truncation)
        parts["candidates"] = Dataset.of_images(
            pictures, labels, tuple(map(str, range(len(labels)))), classes
        )
        made_by = (
            f"{args.gan.name} at step {gan.step}, seed {args.seed}, truncation {args.truncation}"
        )
    if args.quick:
        parts = {
            name: p.subset(
                draw_per_class(p.labels, np.minimum(np.bincount(p.labels), 40).tolist(), 0)
            )
            for name, p in parts.items()
        }
    train, test, generated = parts["train"], parts["test"], parts["candidates"]
    held_out = [parts["valid"], test]
    held_out_labels = np.concatenate([p.labels for p in held_out])

    own = train.image_size
    few: Callable[[TrainingConfig], TrainingConfig] = partial(
        replace, epochs=1, steps_per_epoch=2, batch_size=16
    )
    extractor_config, quick = EXTRACTOR.for_images(*own), QUICK.for_images(*own)
    if args.quick:
        extractor_config, quick = (
            few(replace(extractor_config, architecture="resnet18", size=quick.size)),
            few(quick),
        )
    print(f"{describe_machine()}\n", flush=True)
    print(
        f"Generated: {made_by}, n = {len(generated):,}. Real: {len(train):,} training, {len(held_out_labels):,} held-out pictures."
    )
    digests = {name: images_digest(p.images, p.labels) for name, p in parts.items()}

    size = extractor_config.size
    print(
        f"Features and agreement: {extractor_config.architecture} at {size[0]}×{size[1]} pixels, trained on the train split.",
        flush=True,
    )
    key = f"{digests['train']} {digests['valid']} {extractor_config}"
    extractor = kept(
        args.keep,
        "extractor",
        key,
        partial(train_extractor, train, parts["valid"], 0, extractor_config),
    )
    seen = {
        "train": train.pixels(size),
        "generated": generated.pixels(size),
        "real": np.concatenate([p.pixels(size) for p in held_out]),
    }
    labels_of = {"train": train.labels, "generated": generated.labels, "real": held_out_labels}
    features = {name: extractor.features(pixels) for name, pixels in seen.items()}
    assigned = {
        name: extractor.log_probabilities(pixels).argmax(1).cpu().numpy()
        for name, pixels in seen.items()
    }

    print(
        f"\nFréchet distance to a random half of the held-out pictures, mean ± standard deviation over {args.draws} draws:\n"
    )
    rows = []
    shares = np.bincount(held_out_labels, minlength=len(classes)) / len(held_out_labels)
    for i, name in [*enumerate(classes), (-1, "all")]:
        sets = {
            part: features[part][np.flatnonzero(y == i) if i >= 0 else stratified(y, shares)]
            for part, y in labels_of.items()
        }
        drawn = frechet_against_floor(sets["generated"], sets["real"], sets["train"], args.draws)
        over = np.mean(drawn["generated"]) / np.mean(drawn["real"])
        rows.append(
            [
                name,
                f"{drawn['n'][0]:,.0f}",
                *(mean_std(drawn[k]) for k in ("generated", "real", "train")),
                f"{over:.1f}",
            ]
        )
    print(
        table(
            [
                "class",
                "n",
                "generated",
                "the other real half (floor)",
                "training pictures",
                "generated / floor",
            ],
            rows,
        ),
        flush=True,
    )

    print(
        "Share that the network assigns to the class that was asked for; for real pictures, to their own:\n"
    )
    rows = []
    for i, name in enumerate(classes):
        right = {part: assigned[part][labels_of[part] == i] == i for part in ("generated", "real")}
        rows.append([name, *(f"{hits.mean():.3f} (n = {len(hits):,})" for hits in right.values())])
    print(table(["class", "generated", "held-out real"], rows), flush=True)

    counts = np.minimum(
        np.bincount(train.labels, minlength=len(classes)),
        np.bincount(generated.labels, minlength=len(classes)),
    ).tolist()
    sources = {"generated": generated, "real": train}
    pixels = {name: p.pixels(quick.size) for name, p in sources.items()}
    scores: dict[str, dict[str, list[float]]] = {
        name: {"accuracy": [], "auc": []} for name in sources
    }
    for seed in range(args.seeds):
        for name, source in sources.items():
            members = draw_per_class(source.labels, counts, seed)
            key = f"{digests['candidates' if name == 'generated' else 'train']} {counts} {quick} {seed}"
            # no look at validation: nothing is chosen by it
            job = partial(
                train_classifier,
                pixels[name],
                source.labels,
                pixels[name],
                source.labels,
                len(classes),
                seed,
                quick,
            )
            classifier = kept(args.keep, name, key, partial(job, members=members, scored_epochs=0))
            scored = classifier.score(test.pixels(quick.size), test.labels)
            for metric, values in scores[name].items():
                values.append(scored[metric][0])
    print(
        f"Classification accuracy score: {quick.architecture} at {quick.size[0]}×{quick.size[1]} pixels trained on {sum(counts):,} pictures of one "
        f"kind, {quick.epochs * (quick.steps_per_epoch or 0)} steps of {quick.batch_size}, tested on {len(test):,} real test pictures (the most frequent class "
        f"has {np.bincount(test.labels).max() / len(test):.3f}); mean ± standard deviation over {args.seeds} seeds, the ratio seed by seed:\n"
    )
    rows = []
    for metric in ("accuracy", "auc"):
        ratio = [g / r for g, r in zip(scores["generated"][metric], scores["real"][metric])]
        rows.append(
            [
                f"test {metric}",
                *(mean_std(scores[name][metric]) for name in sources),
                mean_std(ratio),
            ]
        )
    print(table(["", "trained on generated", "trained on real", "ratio"], rows), flush=True)

    print(
        "Distance to the nearest training picture, percentiles 1 / 10 / 50; pixels: root mean square of 0..1 over 16×16, nearest of all "
        'orientations; "over contrast": divided by the standard deviation of a picture over its own pixels. '
        "Closer: share of the generated pictures below the 1st percentile of held-out, and of training to other training:\n"
    )
    native = {
        "generated": generated.pixels(),
        "train": train.pixels(),
        "real": np.concatenate([p.pixels(own) for p in held_out]),
    }
    small = [thumbnails(native[part]) for part in ("generated", "real", "train")]
    pixelwise = memorisation(*small)
    relative = over_contrast(pixelwise, *(forms[0] for forms in small))
    seen_by = memorisation([features["generated"]], [features["real"]], [features["train"]])
    spaces = {
        "features": seen_by,
        "16×16 pixels": pixelwise,
        "16×16 pixels over contrast": relative,
    }
    rows = []
    for name, found in spaces.items():
        spread = [
            " / ".join(f"{p:.3f}" for p in np.percentile(d, (1, 10, 50)))
            for d in (found.generated, found.held_out, found.train)
        ]
        rows.append([name, *spread, *(f"{share:.1%}" for share in found.shares)])
    print(
        table(
            [
                "",
                "generated",
                "held-out real",
                "training to others",
                "closer than held-out",
                "closer than training",
            ],
            rows,
        ),
        flush=True,
    )

    if args.pairs:
        closest = relative.generated.argsort()[:PAIRS]
        shown = [
            decode(native["generated"][closest], own),
            decode(native["train"][relative.nearest[closest]], own),
        ]
        with atomic_write(args.pairs) as path:
            Image.fromarray(image_grid(np.concatenate(shown), PAIRS)).save(path)
