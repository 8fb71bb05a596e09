from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from synthselect_env.synthesis import HistoGAN

Patches = tuple[np.ndarray, np.ndarray]


def same_features(one: HistoGAN, other: HistoGAN) -> bool:
    a, b = (gan.discriminator.features.state_dict() for gan in (one, other))
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_the_feature_network_learns_and_then_stays(
    patches: Patches, tiny_gan: Callable[..., HistoGAN]
) -> None:
    gan = tiny_gan(pretraining_steps=40, width=8, steps=2)
    rows = list(gan.pretrain(*patches))
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[-1]["cross_entropy"] < 0.4 < rows[0]["cross_entropy"]
    assert rows[-1]["contrast"] < rows[0]["contrast"]
    features = gan.discriminator.features
    before = {name: value.clone() for name, value in features.state_dict().items()}
    assert len(list(gan.fit(*patches))) == 2
    after = features.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not features.training


def test_an_interrupted_pretraining_starts_again(
    patches: Patches, tiny_gan: Callable[..., HistoGAN]
) -> None:
    once, twice = tiny_gan(), tiny_gan()
    rows = list(once.pretrain(*patches))
    interrupted = twice.pretrain(*patches)
    next(interrupted)
    interrupted.close()
    assert list(twice.pretrain(*patches)) == rows
    assert same_features(once, twice)


def test_fit_pretrains_if_that_was_not_done(
    patches: Patches, tiny_gan: Callable[..., HistoGAN]
) -> None:
    separate, together = tiny_gan(steps=1), tiny_gan(steps=1)
    list(separate.pretrain(*patches))
    assert list(together.fit(*patches)) == list(separate.fit(*patches))
    assert same_features(separate, together)
