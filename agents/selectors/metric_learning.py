"""Selectors by distance to real images, in a learned metric or after a filter."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from agents.selectors.base import PerReal, RatioSelector, best_of_each_class
from agents.selectors.valuation import class_log_probabilities
from synthselect_env import FeatureBank
from synthselect_env.evaluators.candidate_scores import label_probe
from synthselect_env.training.device import seeded

MAX_COSINE_DISTANCE = 2.0
"""Largest cosine distance that there is."""

MIN_STANDARD_DEVIATION = 1e-6
"""Lower bound of a feature's spread. A constant feature would be divided by zero."""

MIN_IMAGES_PER_CLASS = 2
"""Images of each class in a batch of triplets: an anchor needs a partner."""


class TripletSelector(RatioSelector):
    """Add the candidates nearest to their class centroid in a learned metric.

    This is the paper's metric-learning baseline, of which it says no more than that a triplet loss
    is used. In our reading, the metric is learned on the real training features and replaces the
    cosine distance of its centroid baseline. Labels of candidates are not learned from.

    An embedding is a linear map of the standardised features, scaled to length 1 as in FaceNet
    (Schroff et al. 2015, arXiv:1503.03832). Batches are balanced by class. Each anchor is held
    against the farthest image of its class and the nearest of another one (Hermans et al. 2017,
    arXiv:1703.07737).

    .. code-block:: python

        TripletSelector(width=16).select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    :param width: length of an embedding
    :param margin: margin of the loss, in squared distances, which lie between 0 and 4
    :param steps: number of training steps
    :param batch_size: images in a batch, divided among the classes
    :param learning_rate: learning rate of Adam
    :raises ValueError: if a parameter is out of range
    """

    name = "triplet"

    def __init__(
        self,
        ratio: float | PerReal = 0.5,
        width: int = 32,
        margin: float = 0.2,
        steps: int = 200,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(ratio)
        if min(width, steps, batch_size) < 1 or margin <= 0 or learning_rate <= 0:
            raise ValueError(
                "width, steps, batch_size must be at least 1, margin and learning_rate above 0, "
                f"got {width}, {steps}, {batch_size}, {margin}, {learning_rate}"
            )
        self.width = width
        self.margin = margin
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return minus the distance to the mean embedding of the class.  (n,)"""
        # Standardise by the real training images.
        mean = bank.train.features.mean(0)
        std = np.maximum(bank.train.features.std(0), MIN_STANDARD_DEVIATION)
        real = torch.from_numpy((bank.train.features - mean) / std)
        pool = torch.from_numpy((bank.candidates.features - mean) / std)
        real_labels = torch.from_numpy(bank.train.labels)
        pool_labels = torch.from_numpy(bank.candidates.labels)

        # Learn the metric, and measure distances in it.
        n_classes = len(bank.classes)
        embed = self.learn(real, real_labels, n_classes, seed)
        with torch.no_grad():
            embedded = embed(real)
            means = [embedded[real_labels == label].mean(0) for label in range(n_classes)]
            offsets = embed(pool) - torch.stack(means)[pool_labels]  # (n, width)
            return -offsets.norm(dim=1).double().numpy()

    def learn(
        self, features: torch.Tensor, labels: torch.Tensor, n_classes: int, seed: int
    ) -> Embedding:
        """Train the embedding.

        :param features: standardised features, float32 (n, d)
        :param labels: int64 (n,), each class at least once
        :param n_classes: number of classes
        :param seed: random seed of initial weights and batches
        """
        # Set up the network. All randomness comes from the seed.
        generator = torch.Generator().manual_seed(seed)
        with seeded(seed):
            embed = Embedding(features.shape[1], self.width)
        optimizer = torch.optim.Adam(embed.parameters(), lr=self.learning_rate)

        # Every batch has the same number of images per class, class after class.
        members = [(labels == label).nonzero()[:, 0] for label in range(n_classes)]
        per_class = max(MIN_IMAGES_PER_CLASS, self.batch_size // n_classes)
        batch_labels = torch.arange(n_classes).repeat_interleave(per_class)
        same_class = batch_labels[:, None] == batch_labels  # (b, b)

        for _ in range(self.steps):
            # Draw with replacement: a class may have fewer images than its part of the batch.
            drawn = [
                images[torch.randint(len(images), (per_class,), generator=generator)]
                for images in members
            ]
            embedded = embed(features[torch.cat(drawn)])  # (b, width)

            # Find each anchor's hardest triplet.
            squared = 2 - 2 * embedded @ embedded.T  # squared distances of unit vectors (b, b)
            farthest = squared.masked_fill(~same_class, -torch.inf).amax(1)
            nearest = squared.masked_fill(same_class, torch.inf).amin(1)
            loss = (farthest - nearest + self.margin).relu().mean()

            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return embed


class Embedding(nn.Module):
    """A linear map onto the unit sphere.

    :param n_features: length of a feature vector
    :param width: length of an embedding
    """

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(n_features, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # (n, d) -> (n, width)
        """Embed features."""
        return nn.functional.normalize(self.map(features), dim=1)


class EntropyCentroidSelector(RatioSelector):
    """Add the nearest candidates to their class centroid, without the most uncertain ones.

    This follows the other method of the paper's authors, two filters one after the other (Xue et
    al., *Selective Synthetic Augmentation with HistoGAN*, Medical Image Analysis 67, 2021,
    arXiv:1912.03837). In our reading, the first filter is the entropy of the predicted class under
    a linear probe on the real training features, with one quantile per class as the threshold. The
    second is the cosine distance of the paper's centroid baseline. A dropped candidate is added
    only where the ratio asks for more than are left.

    .. code-block:: python

        EntropyCentroidSelector(certain=0.5).select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    :param certain: share of each class that passes the first filter, 0 to 1
    :raises ValueError: if a share lies outside
    """

    name = "entropy + centroid"

    def __init__(self, ratio: float | PerReal = 0.5, certain: float = 0.75) -> None:
        super().__init__(ratio)
        if not 0 <= certain <= 1:
            raise ValueError(f"certain must lie between 0 and 1, got {certain}")
        self.certain = certain

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return minus the cosine distance, with dropped candidates last.  (n,)

        Nothing is random here.
        """
        log_p = class_log_probabilities(label_probe(bank), bank.candidates)  # (n, c)
        negative_entropy = (np.exp(log_p) * log_p).sum(1)
        labels = bank.candidates.labels
        counts = self.certain * np.bincount(labels, minlength=len(bank.classes))
        left = best_of_each_class(negative_entropy, labels, counts)
        return -bank.centroid_distances - MAX_COSINE_DISTANCE * ~left
