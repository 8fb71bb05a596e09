"""What probe_fidelity.py works on: a bank with planted flaws, views of it by several extractors, and selections of known quality."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from synthselect_env import FeatureBank, Split
from synthselect_env.classifier import TrainingConfig, train_classifier
from synthselect_env.data import draw_per_class, read_class_folders
from synthselect_env.data.flaws import plant_flaws

RECIPE = TrainingConfig(architecture="resnet18", size=(32, 32), epochs=8, steps_per_epoch=50, batch_size=32, learning_rate=1e-3)
"""A small network on small pictures, so that hundreds of full retrainings fit into an hour on two cores."""

SHARES = {"wrong label": 0.3, "blur and noise": 0.1, "wrong stain": 0.1}


def planted_bank(data: Path, n_real: int, n_candidates: int, seed: int) -> FeatureBank:
    """Real patches as candidates, half of them flawed; features are still to be extracted (zeros).

    :param data: class folders with train/, valid/ and test/
    :param n_real: real training patches
    :param n_candidates: candidates, other patches of the same split
    :param seed: of the draw and the flaws
    """
    parts = {name: read_class_folders(data, name) for name in ("train", "valid", "test")}
    labels = parts["train"].labels
    share = np.bincount(labels) / len(labels)
    drawn = draw_per_class(labels, np.round((n_real + n_candidates) * share).astype(int), seed)
    real = np.sort(drawn[draw_per_class(labels[drawn], np.round(n_real * share).astype(int), seed)])
    pool = np.setdiff1d(drawn, real)
    size = RECIPE.size
    planted = plant_flaws(parts["train"].subset(pool).pixels(), labels[pool], len(share), SHARES, seed)
    pictures = {name: (part.pixels(size), part.labels) for name, part in parts.items() if name != "train"}
    pictures["train"] = parts["train"].subset(real).pixels(size), labels[real]
    splits = {name: Split(np.zeros((len(y), 1), np.float32), y, images=x) for name, (x, y) in pictures.items()}
    from synthselect_env.data import decode

    candidates = Split(np.zeros((len(pool), 1), np.float32), planted.labels, images=decode(planted.images, size), flaw=planted.flaw)
    return FeatureBank(**splits, candidates=candidates, classes=parts["train"].classes, source="planted")


def with_features(bank: FeatureBank, config: TrainingConfig, seed: int, fold: tuple[int, int] | None = None) -> FeatureBank:
    """The bank seen by one extractor.

    :param bank: with pictures
    :param config: how the extractor is trained
    :param seed: of its training
    :param fold: (i, k) for cross-fitting: the extractor is trained without the i-th of k parts of the real training split, and
        the bank that is returned has that part alone as its training split
    """
    train, labels = bank.train.images, bank.train.labels
    part = np.random.default_rng(seed).permutation(len(labels)) % fold[1] if fold else np.zeros(len(labels), int)
    seen = part != fold[0] if fold else part == 0
    extractor = train_classifier(train[seen], labels[seen], bank.valid.images, bank.valid.labels, len(bank.classes), seed, config)
    splits = {
        name: replace(split, features=extractor.features(split.images))
        for name, split in ((n, getattr(bank, n)) for n in ("train", "valid", "test", "candidates"))
    }
    if fold:
        t = splits["train"]
        splits["train"] = Split(t.features[~seen], t.labels[~seen], images=t.images[~seen])
    return replace(bank, **splits)
