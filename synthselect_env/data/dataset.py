"""Split: pictures as feature vectors, and what is known of each; Retrainings: selections of candidates and what they scored."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from synthselect_env.data import LazyImages
from synthselect_env.data.images import picture_size, pictures_digest, positions_of
from synthselect_env.metrics import METRICS


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures as feature vectors, with what is known of each.

    :param features: float (n, d); a float32 memory map stays one
    :param labels: int (n,), positions in the bank's ``classes``
    :param ids: a unique name each, e.g. the file's
    :param images: the pictures, encoded, rendered or uint8 (n, h, w, 3); needed for full retraining and for reports
    :param groups: patient or slide of each
    :param flaw: int8 (n,), 0 for a sound candidate; only in known-truth banks, and never shown to an agent
    :param appearance: float (n, s), how each picture looks whatever it shows; see :func:`~synthselect_env.data.image_stats`
    """

    features: np.ndarray
    labels: np.ndarray
    ids: Sequence[str] | None = None
    images: LazyImages | np.ndarray | None = None
    groups: Sequence[str] | None = None
    flaw: np.ndarray | None = None
    appearance: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: np.ndarray) -> Split:
        """The pictures at ``index`` (positions or a boolean mask), in that order.

        :raises ValueError: when a mask does not have one entry a picture
        """
        positions = positions_of(index, len(self))
        ids, groups = (None if names is None else tuple(names[int(i)] for i in positions) for names in (self.ids, self.groups))
        images, flaw, looks = (None if values is None else values[positions] for values in (self.images, self.flaw, self.appearance))
        return Split(self.features[positions], self.labels[positions], ids, images, groups, flaw, looks)  # type: ignore[arg-type]

    @cached_property
    def features_digest(self) -> str:
        """A name for features and labels, to key caches by."""
        content = hashlib.sha256(np.asarray(self.labels, np.int64).tobytes())
        content.update(np.ascontiguousarray(self.features, np.float32).data)
        return content.hexdigest()

    @cached_property
    def pictures_digest(self) -> str:
        """A name for pictures and labels, which another extractor does not change."""
        return pictures_digest(self.images, self.labels)

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) of the pictures, in pixels; see :func:`~synthselect_env.data.images.picture_size`.

        :raises ValueError: when there is none
        """
        return picture_size(self.images)

    def checked(self, where: str, n_classes: int) -> Split:
        """The split with float32 features, int64 labels and tuples of names.

        :param where: of the split, for messages
        :param n_classes: number of classes
        :raises ValueError: when something is malformed; the message says what, and the remedy
        """
        features, labels = np.asarray(self.features), np.asarray(self.labels)
        if features.ndim != 2 or features.dtype.kind != "f" or not features.shape[1]:
            raise ValueError(f"{where}/features is {features.dtype} {features.shape}, expected floats (n, d); store one row a picture")
        if labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{where}/labels is {labels.dtype} {labels.shape}, expected integers ({len(features)},); store one label a feature row"
            )
        features = np.ascontiguousarray(features, np.float32)
        # in parts: the features may be a memory map that is larger than the memory
        bad = np.concatenate(
            [i + np.flatnonzero(~np.isfinite(features[i : i + 65536]).all(1)) for i in range(0, max(len(features), 1), 65536)]
        )
        if len(bad):
            raise ValueError(
                f"{where}/features has {len(bad)} rows with NaN or infinity (first: {bad[0]}); extract them again or drop them"
            )
        outside = np.flatnonzero((labels < 0) | (labels >= n_classes))
        if len(outside):
            raise ValueError(
                f"{where}/labels has {len(outside)} labels outside 0..{n_classes - 1} (first: {labels[outside[0]]} in row {outside[0]}); labels are positions in classes"
            )
        for name in ("ids", "groups", "images", "flaw", "appearance"):
            value = getattr(self, name)
            if name == "images" and not isinstance(value, LazyImages | np.ndarray | None):
                raise ValueError(
                    f"{where}/images is a {type(value).__name__}, expected EncodedImages, RenderedImages or uint8 (n, h, w, 3)"
                )
            if value is not None and (len(value) != len(labels) or (name == "flaw" and np.ndim(value) != 1)):
                raise ValueError(f"{where}/{name} has {len(value)} entries for {len(labels)} labels; store one a picture")
        if self.ids is not None and len(set(self.ids)) < len(labels):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise ValueError(f"{where}/ids has {twice!r} more than once; ids name pictures, make them unique")
        if isinstance(self.images, np.ndarray) and (self.images.dtype != np.uint8 or self.images.shape[3:] != (3,)):
            raise ValueError(f"{where}/images is {self.images.dtype} {self.images.shape}, expected uint8 (n, h, w, 3), or encoded pictures")
        for name in ("ids", "groups"):
            entries = getattr(self, name)
            unnamed = [i for i, entry in enumerate([] if entries is None else entries) if entry is None or entry != entry or entry == ""]
            if unnamed:  # a missing patient would be a patient of that name, whose pictures belong together
                raise ValueError(
                    f"{where}/{name} has {len(unnamed)} entries without a name (first: {unnamed[0]}); name each, or give {name}=None"
                )
        ids, groups = (None if names is None else tuple(map(str, names)) for names in (self.ids, self.groups))
        flaw = None if self.flaw is None else np.asarray(self.flaw, np.int8)
        looks = None if self.appearance is None else np.asarray(self.appearance, np.float32)
        if looks is not None and (looks.ndim != 2 or not np.isfinite(looks).all()):
            raise ValueError(f"{where}/appearance is {looks.shape} or not finite, expected numbers (n, s); extract the bank again")
        labels = np.ascontiguousarray(labels, np.int64)
        return replace(self, features=features, labels=labels, ids=ids, groups=groups, flaw=flaw, appearance=looks)


@dataclass(frozen=True, eq=False)
class Retrainings:
    """Selections that a network was retrained on in full, and what it scored on the validation split.

    :param selections: bool (m, n)
    :param figures: metric to (m, e), the last e epochs
    :param recipe: JSON-able facts: how the network was trained, with which seed
    :param pictures: the :attr:`FeatureBank.pictures_digest` of what was trained and scored on
    :param own_log_probability: float16 (m, n), that of each candidate's label under each of the networks; NaN, or None, where not known
    """

    selections: np.ndarray
    figures: dict[str, np.ndarray]
    recipe: dict[str, Any]
    pictures: str
    own_log_probability: np.ndarray | None = None

    def check(self, n: int, where: str) -> None:
        """See whether they are of ``n`` candidates and have all figures.

        :param n: number of candidates
        :param where: of the retrainings, for messages
        :raises ValueError: when they are not
        """
        m = len(self.selections)
        if self.selections.shape != (m, n) or self.selections.dtype != bool:
            raise ValueError(f"{where}/selections is {self.selections.dtype} {self.selections.shape}, expected bool (m, {n})")
        if missing := [metric for metric in METRICS if metric not in self.figures]:
            raise ValueError(f"{where}/figures lacks {', '.join(missing)}; a retraining has all metrics")
        wrong = [f"{metric} {values.shape}" for metric, values in self.figures.items() if values.ndim != 2 or len(values) != m]
        if wrong:
            raise ValueError(f"{where}/figures must be arrays ({m}, epochs), a row a retraining; got {', '.join(wrong)}")
        own = self.own_log_probability
        if own is not None and (own.shape != (m, n) or own.dtype.kind != "f"):
            raise ValueError(f"{where}/own_log_probability is {own.dtype} {own.shape}, expected floats ({m}, {n})")
