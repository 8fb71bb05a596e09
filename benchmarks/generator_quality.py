"""Measure how good generated candidates are, and draw the cervical phantom.

    python benchmarks/generator_quality.py                                  # the bank's candidates
    python benchmarks/generator_quality.py --gan runs/histogan/histogan.pt  # a checkpoint's
    python benchmarks/generator_quality.py --phantom benchmarks/figures/phantom.jpg

Time on two cores: about a quarter of an hour. The phantom takes seconds.

Four measures: the Fréchet distance, what a classifier learns from the candidates alone, the class
that a network sees in them, and nearness to training images.

Features are those of a ResNet that is trained on the real train split. So the Fréchet distance is
**not** the Inception FID. It depends on the number of images: both sides have equally many, and the
distance between two halves of the real images stands beside it. Real images are the held-out ones
of the validation and test splits, as a network sees its own training images more clearly than any
others. Trained networks are kept in runs/.

Results: generator_quality.md and histogan96.md in benchmarks/results/
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from machine import describe_machine, markdown_table, median_range
from PIL import Image

from agents.report import save_figure
from agents.report.plotting import new_figure
from synthselect_env import FeatureBank
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.bank.extraction import EXTRACTOR, train_extractor
from synthselect_env.data import (
    Dataset,
    cervical_phantom,
    decode,
    draw_per_class,
    image_grid,
    phantom_candidates,
)
from synthselect_env.data.flaws import FLAWS
from synthselect_env.data.images import images_digest
from synthselect_env.data.phantom import GRADES
from synthselect_env.storage import atomic_write, content_key, library_digest
from synthselect_env.synthesis import (
    HistoGAN,
    frechet_distance,
    nearest_distances,
    share_closer,
)
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import SMALL, TrainingConfig, default_config
from synthselect_env.training.trainer import train_classifier

THUMBNAIL = (16, 16)
"""Pixels of the images in which copies are looked for.

Coarse enough to forgive noise and a shift by one pixel, fine enough to place nuclei.
"""

PAIRS = 24
"""Generated images in the figure: those nearest to a training image for their contrast."""

DRAWN_FLAWS = ("blur and noise", "wrong stain", "torn")
"""Flaws of the phantom's candidates that can be seen in an image."""

COLUMNS = 8
"""Images per row of the phantom's figure."""


def mean_std(values: list[float], digits: int = 3) -> str:
    """Return ``mean ± standard deviation``, or the mean alone of a single value."""
    return f"{np.mean(values):.{digits}f}" + (
        f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    )


def frechet_against_floor(
    generated: np.ndarray, real: np.ndarray, train: np.ndarray, draws: int, seed: int = 0
) -> dict[str, list[float]]:
    """Return Fréchet distances to random halves of the real images.

    Generated, other real and training images are drawn in samples of one size n.

    :param generated: features (g, d)
    :param real: features of real images that no network was trained on (r, d)
    :param train: features of the training images (t, d)
    :param draws: number of random halves
    :param seed: random seed
    :return: "generated", "real" (the floor) and "train": one distance per draw; "n": the size
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
    """Return positions of the largest set with the given shares of the classes.

    The Fréchet distance of all classes together would otherwise measure the shares.
    """
    counts = np.bincount(labels, minlength=len(shares))
    total = (counts[shares > 0] / shares[shares > 0]).min()
    return draw_per_class(labels, np.floor(total * shares + 1e-9).astype(int).tolist(), seed)


def orientations(images: np.ndarray) -> list[np.ndarray]:
    """Return the images in all orientations.  (n, h, w, 3) each

    Squares have 8 orientations, other images 4. The generator is trained on all of them, so a copy
    can be of any.
    """
    flipped = [images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]]
    return flipped + (
        [x.swapaxes(1, 2) for x in flipped] if images.shape[1] == images.shape[2] else []
    )


def nearest_image(
    queries: list[np.ndarray], training: np.ndarray, skip_own: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the nearest training vector over all forms, and its position.

    :param queries: forms of the same images, (n, d) each
    :param training: training vectors (m, d)
    :param skip_own: whether the queries are the training images; look among the others then
    :return: (n,), (n,)
    """
    distances, positions = map(
        np.stack, zip(*(nearest_distances(form, training, skip_own) for form in queries))
    )
    best = distances.argmin(0)[None]
    return np.take_along_axis(distances, best, 0)[0], np.take_along_axis(positions, best, 0)[0]


@dataclass(frozen=True)
class Memorisation:
    """Hold distances to the nearest training image.

    :param generated: distances of generated images (g,)
    :param held_out: distances of held-out real images (r,)
    :param train: distances of training images to the nearest other one (t,)
    :param nearest: position of the training image nearest to each generated one (g,)
    """

    generated: np.ndarray
    held_out: np.ndarray
    train: np.ndarray
    nearest: np.ndarray

    @property
    def shares(self) -> tuple[float, float]:
        """Return the shares of generated images that are suspiciously close.

        Close means below the 1st percentile of held-out to training images, and of training images
        to each other.
        """
        return share_closer(self.generated, self.held_out), share_closer(self.generated, self.train)


def memorisation(
    generated: list[np.ndarray], held_out: list[np.ndarray], training: list[np.ndarray]
) -> Memorisation:
    """Measure nearness to the training images.

    :param generated: forms of the generated images as vectors, (g, d) each
    :param held_out: forms of real images that the generator never saw, (r, d) each
    :param training: forms of the training images, (t, d) each, the first as they are
    """
    distances, nearest = nearest_image(generated, training[0])
    held = nearest_image(held_out, training[0])[0]
    return Memorisation(
        distances, held, nearest_image(training, training[0], skip_own=True)[0], nearest
    )


def thumbnails(images: np.ndarray) -> list[np.ndarray]:
    """Return thumbnails in all orientations as vectors.  (n, 768) each

    Pixels of 0..1 are scaled so that distances are root mean squares.
    """
    square = images.shape[1] == images.shape[2]  # of the images; thumbnails always are
    forms = orientations(decode(images, THUMBNAIL) / 255)[: None if square else 4]
    return [form.reshape(len(images), -1) / np.sqrt(form[0].size) for form in forms]


def over_contrast(
    found: Memorisation, generated: np.ndarray, held_out: np.ndarray, training: np.ndarray
) -> Memorisation:
    """Return distances of thumbnails as multiples of each image's own contrast.

    Blank glass lies near blank glass. In plain distances the nearest pairs are all of that kind.

    :param generated: thumbnails of the generated images as vectors (g, 768)
    :param held_out: thumbnails of the held-out real images (r, 768)
    :param training: thumbnails of the training images (t, 768)
    """
    grey_level = 1 / 255
    g, r, t = (
        np.maximum(x.std(1) * np.sqrt(x.shape[1]), grey_level)
        for x in (generated, held_out, training)
    )
    return Memorisation(found.generated / g, found.held_out / r, found.train / t, found.nearest)


def kept(directory: Path, name: str, key: str, train: Callable[[], Classifier]) -> Classifier:
    """Read a trained network, or train and keep it."""
    file = directory / f"{name}-{content_key(key, library_digest())[:12]}.pt"
    if not file.exists():
        train().save(file)
    return Classifier.load(file)


@dataclass(frozen=True)
class Images:
    """Hold the images that are compared.

    :param generated: images under judgement
    :param train: real training images
    :param valid: real validation images
    :param test: real test images
    :param digests: digest per split
    :param classes: class names
    """

    generated: Dataset
    train: Dataset
    valid: Dataset
    test: Dataset
    digests: dict[str, str]
    classes: tuple[str, ...]

    @property
    def held_out_labels(self) -> np.ndarray:
        """Labels of the validation and the test images."""
        return np.concatenate([self.valid.labels, self.test.labels])

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Labels by kind of image."""
        return {
            "train": self.train.labels,
            "generated": self.generated.labels,
            "real": self.held_out_labels,
        }

    def pixels(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Return images of one size by kind; "real" are the held-out ones."""
        return {
            "train": self.train.pixels(size),
            "generated": self.generated.pixels(size),
            "real": np.concatenate([p.pixels(size) for p in (self.valid, self.test)]),
        }


def read_images(args: argparse.Namespace, bank: FeatureBank) -> tuple[Images, str]:
    """Return the images to compare, and the origin of the generated ones."""
    parts, classes = dict(bank.splits), tuple(bank.classes)
    made_by = f"the candidates of {args.bank}"
    if args.gan:
        gan = HistoGAN.load(args.gan)
        if gan.classes != classes:
            known = ", ".join(classes)
            raise ValueError(f"{args.gan} makes {', '.join(gan.classes)}, the bank has {known}")
        labels = np.repeat(np.arange(len(classes)), args.per_class)
        images = gan.sample(labels, args.seed, truncation=args.truncation)
        names = tuple(map(str, range(len(labels))))
        parts["candidates"] = Dataset.of_images(images, labels, names, classes)
        made_by = f"{args.gan.name} at step {gan.step}, seed {args.seed}"
        made_by += f", truncation {args.truncation}"
    if args.quick:
        for name, part in parts.items():
            counts = np.minimum(np.bincount(part.labels), 40).tolist()
            parts[name] = part.subset(draw_per_class(part.labels, counts, 0))
    digests = {name: images_digest(p.images, p.labels) for name, p in parts.items()}
    splits = (parts[name] for name in ("candidates", "train", "valid", "test"))
    return Images(*splits, digests, classes), made_by


def print_frechet(images: Images, features: dict[str, np.ndarray], draws: int) -> None:
    """Print the Fréchet distance by class, beside its floor."""
    print(
        "\nFréchet distance to a random half of the held-out images, mean ± standard deviation "
        f"over {draws} draws:\n"
    )
    rows = []
    held_out, classes = images.held_out_labels, images.classes
    shares = np.bincount(held_out, minlength=len(classes)) / len(held_out)
    for i, name in [*enumerate(classes), (-1, "all")]:
        sets = {}
        for part, y in images.labels.items():
            chosen = np.flatnonzero(y == i) if i >= 0 else stratified(y, shares)
            sets[part] = features[part][chosen]
        drawn = frechet_against_floor(sets["generated"], sets["real"], sets["train"], draws)
        over = np.mean(drawn["generated"]) / np.mean(drawn["real"])
        cells = [mean_std(drawn[k]) for k in ("generated", "real", "train")]
        rows.append([name, f"{drawn['n'][0]:,.0f}", *cells, f"{over:.1f}"])
    header = ["class", "n", "generated", "the other real half (floor)", "training images"]
    print(markdown_table([*header, "generated / floor"], rows), flush=True)


def print_agreement(images: Images, assigned: dict[str, np.ndarray]) -> None:
    """Print how often a network sees the class that was asked for."""
    print(
        "\nShare that the network assigns to the class that was asked for; for real images, to "
        "their own:\n"
    )
    rows = []
    for i, name in enumerate(images.classes):
        parts = ("generated", "real")
        right = [assigned[part][images.labels[part] == i] == i for part in parts]
        rows.append([name, *(f"{hits.mean():.3f} (n = {len(hits):,})" for hits in right)])
    print(markdown_table(["class", "generated", "held-out real"], rows), flush=True)


def print_accuracy_score(
    images: Images, config: TrainingConfig, seeds: int, directory: Path
) -> None:
    """Print what a classifier learns from either kind of image."""
    test, n_classes = images.test, len(images.classes)
    sources = {"generated": images.generated, "real": images.train}
    held = [np.bincount(p.labels, minlength=n_classes) for p in (images.train, images.generated)]
    counts = np.minimum(*held).tolist()

    # train on one kind of image, with the same number per class
    pixels = {name: p.pixels(config.size) for name, p in sources.items()}
    scores: dict[str, dict[str, list[float]]] = {
        name: {"accuracy": [], "auc": []} for name in sources
    }
    for seed in range(seeds):
        for name, source in sources.items():
            digest = images.digests["candidates" if name == "generated" else "train"]
            data = (pixels[name], source.labels)
            job = partial(
                train_classifier,
                *data,
                *data,  # in the place of validation, which is not looked at: nothing is chosen
                n_classes,
                seed,
                config,
                indices=draw_per_class(source.labels, counts, seed),
                scored_epochs=0,
            )
            classifier = kept(directory, name, f"{digest} {counts} {config} {seed}", job)
            scored = classifier.score(test.pixels(config.size), test.labels)
            for metric, values in scores[name].items():
                values.append(scored[metric][0])

    # print the table
    steps = config.epochs * (config.steps_per_epoch or 0)
    frequent = np.bincount(test.labels).max() / len(test)
    print(
        f"\nClassification accuracy score: {config.architecture} at {config.size[0]}×"
        f"{config.size[1]} pixels trained on {sum(counts):,} images of one kind, {steps} steps of "
        f"{config.batch_size}, tested on {len(test):,} real test images (the most frequent class "
        f"has {frequent:.3f}); mean ± standard deviation over {seeds} seeds, the ratio seed by "
        "seed:\n"
    )
    rows = []
    for metric in ("accuracy", "auc"):
        ratio = [g / r for g, r in zip(scores["generated"][metric], scores["real"][metric])]
        cells = [mean_std(scores[name][metric]) for name in sources]
        rows.append([f"test {metric}", *cells, mean_std(ratio)])
    print(
        markdown_table(["", "trained on generated", "trained on real", "ratio"], rows), flush=True
    )


def print_memorisation(images: Images, features: dict[str, np.ndarray], pairs: Path | None) -> None:
    """Print nearness to training images, and write the nearest pairs where asked."""
    print(
        "\nDistance to the nearest training image, percentiles 1 / 10 / 50; pixels: root mean "
        'square of 0..1 over 16×16, nearest of all orientations; "over contrast": divided by '
        "the standard deviation of an image over its own pixels. Closer: share of the generated "
        "images below the 1st percentile of held-out, and of training to other training:\n"
    )
    own = images.train.image_size
    native = images.pixels(own) | {"generated": images.generated.pixels()}
    small = [thumbnails(native[part]) for part in ("generated", "real", "train")]
    pixelwise = memorisation(*small)
    relative = over_contrast(pixelwise, *(forms[0] for forms in small))
    seen = memorisation(*([features[part]] for part in ("generated", "real", "train")))
    spaces = {
        "features": seen,
        "16×16 pixels": pixelwise,
        "16×16 pixels over contrast": relative,
    }
    rows = []
    for name, found in spaces.items():
        distances = [
            np.percentile(d, (1, 10, 50)) for d in (found.generated, found.held_out, found.train)
        ]
        spread = [" / ".join(f"{p:.3f}" for p in percentiles) for percentiles in distances]
        rows.append([name, *spread, *(f"{share:.1%}" for share in found.shares)])
    header = ["", "generated", "held-out real", "training to others"]
    more = ["closer than held-out", "closer than training"]
    print(markdown_table([*header, *more], rows), flush=True)

    if pairs:
        closest = relative.generated.argsort()[:PAIRS]
        shown = [native["generated"][closest], native["train"][relative.nearest[closest]]]
        rows_of_tiles = np.concatenate([decode(part, own) for part in shown])
        with atomic_write(pairs) as path:
            Image.fromarray(image_grid(rows_of_tiles, PAIRS)).save(path)


def judge(args: argparse.Namespace, images: Images, made_by: str) -> None:
    """Print the four measures of generated images."""
    n, n_real = len(images.generated), len(images.held_out_labels)
    print(
        f"Generated: {made_by}, n = {n:,}. Real: {len(images.train):,} training, {n_real:,} "
        "held-out images."
    )
    own = images.train.image_size
    extractor_config = EXTRACTOR.for_images(*own)
    config = default_config(SMALL.architecture, len(images.train)).for_images(*own)
    if args.quick:
        few = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 16}
        small = {"architecture": config.architecture, "size": config.size}
        extractor_config = replace(extractor_config, **small, **few)
        config = replace(config, **few)

    # features, from a network that is trained on the real images
    size = extractor_config.size
    print(
        f"Features and agreement: {extractor_config.architecture} at {size[0]}×{size[1]} pixels, "
        "trained on the train split.",
        flush=True,
    )
    key = f"{images.digests['train']} {images.digests['valid']} {extractor_config}"
    job = partial(train_extractor, images.train, images.valid, 0, extractor_config)
    extractor = kept(args.keep, "extractor", key, job)
    pixels = images.pixels(size)
    features = {name: extractor.features(seen) for name, seen in pixels.items()}
    assigned = {
        name: extractor.log_probabilities(seen).argmax(1).cpu().numpy()
        for name, seen in pixels.items()
    }

    # the four measures
    print_frechet(images, features, args.draws)
    print_agreement(images, assigned)
    print_accuracy_score(images, config, args.seeds, args.keep)
    print_memorisation(images, features, args.pairs)


def draw_phantom(path: Path, repeats: int = 5) -> None:
    """Print how fast phantom images are rendered, and draw grades and flaws."""
    real, pool = cervical_phantom()["train"], phantom_candidates()
    rates = []
    for i in range(repeats):
        start = time.perf_counter()
        real.images[100 * i : 100 * (i + 1)].decode()
        rates.append(100 / (time.perf_counter() - start))
    print(f"{median_range(rates, '.0f')} images per second in one process, n = {repeats} times 100")

    # one row per grade, then one per flaw that can be seen
    rows = []
    for i, grade in enumerate(GRADES):
        rows.append((grade, real.images[np.flatnonzero(real.labels == i)[:COLUMNS]]))
    for flaw in DRAWN_FLAWS:
        found = np.flatnonzero(pool.flaw == FLAWS.index(flaw))
        spaced = found[:: max(1, len(found) // COLUMNS)][:COLUMNS]
        rows.append((f"candidate: {flaw}", pool.images[spaced]))
    figure = new_figure(1.0 * COLUMNS, 2.2 * len(rows))
    for axes, (title, images) in zip(figure.subplots(len(rows), 1), rows):
        tiles = np.pad(images.decode(), ((0, 0), (0, 0), (2, 2), (0, 0)), constant_values=255)
        axes.imshow(np.concatenate(list(tiles), axis=1))
        axes.set_title(f"{title} (phantom: rendered, not tissue)", loc="left", fontsize=9, pad=3)
        axes.set_axis_off()
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bank", default="pcam", help="its real images, and its candidates unless --gan")
    add("--gan", type=Path, help="HistoGAN checkpoint to judge instead of the bank's candidates")
    add("--per-class", type=int, default=2048, help="images of each class from --gan")
    add("--truncation", type=float, help="truncation of the latents of --gan")
    add("--seed", type=int, default=0, help="random seed of the latents of --gan")
    add("--seeds", type=int, default=3, help="classifiers per kind of image")
    add("--draws", type=int, default=10, help="random halves for the Fréchet distance")
    add("--quick", action="store_true", help="a smoke test; its metrics mean nothing")
    add("--pairs", type=Path, help=f"image of the {PAIRS} generated images nearest to training")
    add("--keep", type=Path, default=Path("runs/generator_quality"), help="trained networks")
    add("--phantom", type=Path, metavar="FIGURE", help="draw the phantom there, and no more")
    args = parser.parse_args()
    print(f"{describe_machine()}\n", flush=True)
    if args.phantom:
        draw_phantom(args.phantom)
    else:
        try:
            images, made_by = read_images(args, resolve_bank(args.bank))
        except ValueError as error:
            parser.error(str(error))
        judge(args, images, made_by)
