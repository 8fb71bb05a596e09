"""Selectors by a distance to the real images of the own class: in a learned metric, or among the candidates that a classifier is sure of."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from agents.selectors.base import RatioSelector, best_of_each_class
from agents.selectors.valuation import class_log_probabilities
from synthselect_env import FeatureBank
from synthselect_env.evaluators.candidate_scores import label_probe
from synthselect_env.training.device import seeded

MAX_DISTANCE = 2.0
"""Of cosines."""


class TripletSelector(RatioSelector):
    """Adds the candidates nearest to their class centroid in a metric that is learned with a triplet loss (the paper's metric-learning baseline).

    The paper says no more than that, with a ratio of 0.5. Our reading: the metric is learned on the real training features, and takes
    the place of the cosine distance in its centroid baseline. An embedding is a linear map of the standardised features, scaled to
    length 1 as in FaceNet (Schroff et al. 2015, arXiv:1503.03832); each anchor of a class-balanced batch is held against the farthest
    image of its class and the nearest of another one (Hermans et al. 2017, arXiv:1703.07737). Labels of candidates are not learned from.

    :param ratio: see :class:`RatioSelector`
    :param width: of the embedding
    :param margin: of squared distance between embeddings, which lies between 0 and 4
    :param steps: of Adam
    :param batch_size: images in a batch, divided among the classes
    :param learning_rate: of Adam
    :raises ValueError: when a parameter is out of range
    """

    name = "triplet"

    def __init__(
        self,
        ratio: float = 0.5,
        width: int = 32,
        margin: float = 0.2,
        steps: int = 200,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(ratio)
        if min(width, steps, batch_size) < 1 or margin <= 0 or learning_rate <= 0:
            raise ValueError(
                f"width, steps, batch_size must be at least 1, margin and learning_rate above 0, got {width}, {steps}, {batch_size}, {margin}, {learning_rate}"
            )
        self.width, self.margin, self.steps, self.batch_size, self.learning_rate = (
            width,
            margin,
            steps,
            batch_size,
            learning_rate,
        )

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Minus the distance of a candidate's embedding to the mean of its class's real embeddings."""
        mean, std = bank.train.features.mean(0), np.maximum(bank.train.features.std(0), 1e-6)
        real, pool = (
            torch.from_numpy((split.features - mean) / std)
            for split in (bank.train, bank.candidates)
        )
        labels, own = torch.from_numpy(bank.train.labels), torch.from_numpy(bank.candidates.labels)
        embed = self.learn(real, labels, len(bank.classes), seed)
        with torch.no_grad():
            embedded = embed(real)
            centroids = torch.stack(
                [embedded[labels == label].mean(0) for label in range(len(bank.classes))]
            )
            return -(embed(pool) - centroids[own]).norm(dim=1).double().numpy()

    def learn(
        self, features: torch.Tensor, labels: torch.Tensor, n_classes: int, seed: int
    ) -> Embedding:
        """The embedding.

        :param features: standardised, float32 (n, d)
        :param labels: int64 (n,), each class at least once
        :param n_classes: number of classes
        :param seed: of the initial weights and the batches
        """
        generator = torch.Generator().manual_seed(seed)
        with seeded(seed):
            embed = Embedding(features.shape[1], self.width)
        optimizer = torch.optim.Adam(embed.parameters(), lr=self.learning_rate)
        members = [(labels == label).nonzero()[:, 0] for label in range(n_classes)]
        each = max(2, self.batch_size // n_classes)  # an anchor needs a partner
        same = torch.arange(n_classes).repeat_interleave(each)
        same = same[:, None] == same
        for _ in range(self.steps):
            # with replacement: a class may have fewer images than its part of the batch
            batch = torch.cat(
                [m[torch.randint(len(m), (each,), generator=generator)] for m in members]
            )
            embedded = embed(features[batch])
            squared = 2 - 2 * embedded @ embedded.T  # distances of unit vectors
            farthest = squared.masked_fill(~same, -torch.inf).amax(1)
            nearest = squared.masked_fill(same, torch.inf).amin(1)
            optimizer.zero_grad()
            (farthest - nearest + self.margin).relu().mean().backward()
            optimizer.step()
        return embed


class Embedding(nn.Module):
    """A linear map onto the unit sphere.

    :param n_features: d
    :param width: of the embedding
    """

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(n_features, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # (n, d) -> (n, width)
        """Embed features."""
        return nn.functional.normalize(self.map(features), dim=1)


class EntropyCentroidSelector(RatioSelector):
    """Drops the candidates that a classifier is least sure of, and adds the nearest others to their class centroid.

    After the paper's authors' other method, two filters one after the other (Xue et al., *Selective Synthetic Augmentation with HistoGAN*,
    Medical Image Analysis 67, 2021, arXiv:1912.03837). Our reading: the first is the entropy of the predicted class under a linear
    probe on the real training features, with a quantile a class as the threshold; the second is the cosine distance of the paper's
    centroid baseline. A dropped candidate is added only where the ratio asks for more than are left.

    :param ratio: see :class:`RatioSelector`
    :param certain: share of each class with the least entropy that is left, 0 to 1
    :raises ValueError: when it lies outside
    """

    name = "entropy + centroid"

    def __init__(self, ratio: float = 0.5, certain: float = 0.75) -> None:
        super().__init__(ratio)
        if not 0 <= certain <= 1:
            raise ValueError(f"certain must lie between 0 and 1, got {certain}")
        self.certain = certain

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Minus the cosine distance, and less by the largest possible one for a dropped candidate; nothing here is random."""
        log_p = class_log_probabilities(label_probe(bank), bank.candidates)
        labels = bank.candidates.labels
        counts = self.certain * np.bincount(labels, minlength=len(bank.classes))
        left = best_of_each_class(
            (np.exp(log_p) * log_p).sum(1), labels, counts
        )  # minus the entropy
        return -bank.centroid_distances - MAX_DISTANCE * ~left
