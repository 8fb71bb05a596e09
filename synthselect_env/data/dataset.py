"""Dataset: labelled images, as pixels, as feature vectors, or as both."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from synthselect_env.data.images import (
    ConcatenatedImages,
    LazyImages,
    UndecodableError,
    decode,
    image_size,
    images_digest,
    positions_of,
)

CHUNK_SIZE = 65_536
"""Feature rows checked at once. Features may be a memory map larger than the memory."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one split, or the pool of candidates.

    Readers of image folders return datasets without features (:meth:`of_images`). A
    :class:`~synthselect_env.FeatureBank` needs features and can do without images.

    .. code-block:: python

        Dataset(features=np.zeros((2, 512), np.float32), labels=np.array([0, 1]))

    :param features: feature vectors, float (n, d); a float32 memory map stays one
    :param labels: class of each image, int (n,), as positions in ``classes``
    :param ids: unique name of each image, e.g. its file
    :param images: encoded or rendered images, or uint8 (n, h, w, 3)
    :param groups: patient or slide of each image; generator of each candidate, where it is known
    :param flaw: int8 (n,), 0 for a sound candidate. Only banks with known truth have it, and no
        agent sees it
    :param image_stats: statistics of stain, contrast and sharpness, float (n, s); see
        :func:`~synthselect_env.data.compute_image_stats`
    :param classes: class names in label order; empty where they are not known
    """

    features: np.ndarray
    labels: np.ndarray
    ids: Sequence[str] | None = None
    images: LazyImages | np.ndarray | None = None
    groups: Sequence[str] | None = None
    flaw: np.ndarray | None = None
    image_stats: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_images(
        cls,
        images: LazyImages | np.ndarray,
        labels: np.ndarray,
        ids: Sequence[str],
        classes: Sequence[str],
        groups: Sequence[str] | None = None,
        flaw: np.ndarray | None = None,
    ) -> Dataset:
        """Return a dataset of images whose features have not been extracted yet.

        The parameters are those of the class.
        """
        no_features: Any = None
        return cls(no_features, labels, ids, images, groups, flaw, classes=tuple(classes))

    def subset(self, index: Sequence[int] | np.ndarray) -> Dataset:
        """Return the images at ``index``, in that order.

        :param index: positions, or a boolean mask
        :raises ValueError: if a mask does not have one entry per image
        """
        positions = positions_of(index, len(self))

        def rows(values: Any) -> Any:
            return None if values is None else values[positions]

        def names(values: Sequence[str] | None) -> tuple[str, ...] | None:
            return None if values is None else tuple(values[int(i)] for i in positions)

        return Dataset(
            features=rows(self.features),
            labels=self.labels[positions],
            ids=names(self.ids),
            images=rows(self.images),
            groups=names(self.groups),
            flaw=rows(self.flaw),
            image_stats=rows(self.image_stats),
            classes=self.classes,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Dataset]) -> Dataset:
        """Return one dataset of all images, part after part.

        What one part lacks, the result lacks.

        :param parts: at least one dataset, all with the same classes
        """

        def rows(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if any(v is None for v in values) else np.concatenate(values)

        def names(name: str) -> tuple[str, ...] | None:
            values = [getattr(part, name) for part in parts]
            return None if any(v is None for v in values) else tuple(n for v in values for n in v)

        images = [part.images for part in parts if part.images is not None]
        return cls(
            features=rows("features"),
            labels=np.concatenate([part.labels for part in parts]),
            ids=names("ids"),
            images=ConcatenatedImages(images) if len(images) == len(parts) else None,
            groups=names("groups"),
            flaw=rows("flaw"),
            image_stats=rows("image_stats"),
            classes=parts[0].classes,
        )

    def pixels(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the decoded images.

        :param size: (height, width) in pixels, or None for the images' own size
        :return: uint8 (n, h, w, 3)
        :raises ValueError: if there are no images, or one cannot be decoded; the message has its id
        """
        if self.images is None:
            raise ValueError("this dataset has feature vectors only; add images to look at pixels")
        try:
            return decode(self.images, size)
        except UndecodableError as error:
            if self.ids is None:
                raise
            raise ValueError(error.told(self.ids)) from error

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels; their median where sizes differ.

        :raises ValueError: if there are no images
        """
        try:
            return image_size(self.images)
        except UndecodableError as error:
            if self.ids is None:
                raise
            raise ValueError(error.told(self.ids)) from error

    @cached_property
    def features_digest(self) -> str:
        """SHA-256 of features and labels, for cache keys."""
        content = hashlib.sha256(np.asarray(self.labels, np.int64).tobytes())
        content.update(np.ascontiguousarray(self.features, np.float32).data)
        return content.hexdigest()

    @cached_property
    def images_digest(self) -> str:
        """SHA-256 of images and labels, for cache keys. Independent of the extractor."""
        return images_digest(self.images, self.labels)

    def checked(self, where: str, classes: Sequence[str]) -> Dataset:
        """Return the dataset with float32 features, int64 labels and tuples of names.

        :param where: name of the dataset in error messages
        :param classes: class names in label order
        :raises ValueError: if something is malformed; the message says what, and the remedy
        """
        features = self._checked_features(where)
        labels = np.asarray(self.labels)
        if labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{where}/labels is {labels.dtype} {labels.shape}, expected integers "
                f"({len(features)},); store one label per feature row"
            )
        outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(outside):
            row = outside[0]
            raise ValueError(
                f"{where}/labels has {len(outside)} labels outside 0..{len(classes) - 1} "
                f"(first: {labels[row]} in row {row}); labels are positions in classes"
            )
        self._check_images(where)
        self._check_lengths(where, len(labels))
        self._check_names(where)
        image_stats = None
        if self.image_stats is not None:
            image_stats = np.asarray(self.image_stats, np.float32)
            if image_stats.ndim != 2 or not np.isfinite(image_stats).all():
                raise ValueError(
                    f"{where}/appearance (image statistics) is {image_stats.shape} or not finite, "
                    "expected numbers (n, s); extract the bank again"
                )
        return replace(
            self,
            features=features,
            labels=np.ascontiguousarray(labels, np.int64),
            ids=None if self.ids is None else tuple(map(str, self.ids)),
            groups=None if self.groups is None else tuple(map(str, self.groups)),
            flaw=None if self.flaw is None else np.asarray(self.flaw, np.int8),
            image_stats=image_stats,
            classes=tuple(classes),
        )

    def _checked_features(self, where: str) -> np.ndarray:
        if self.features is None:
            raise ValueError(f"{where}/features is missing; extract features from the images")
        features = np.asarray(self.features)
        if features.ndim != 2 or features.dtype.kind != "f" or not features.shape[1]:
            raise ValueError(
                f"{where}/features is {features.dtype} {features.shape}, expected floats (n, d); "
                "store one row per image"
            )
        features = np.ascontiguousarray(features, np.float32)
        for start in range(0, len(features), CHUNK_SIZE):
            finite = np.isfinite(features[start : start + CHUNK_SIZE]).all(1)
            if not finite.all():
                bad = [
                    i + np.flatnonzero(~np.isfinite(features[i : i + CHUNK_SIZE]).all(1))
                    for i in range(start, len(features), CHUNK_SIZE)
                ]
                rows = np.concatenate(bad)
                raise ValueError(
                    f"{where}/features has {len(rows)} rows with NaN or infinity "
                    f"(first: {rows[0]}); extract them again or drop them"
                )
        return features

    def _check_images(self, where: str) -> None:
        images = self.images
        if not isinstance(images, LazyImages | np.ndarray | None):
            raise ValueError(
                f"{where}/images is a {type(images).__name__}, expected EncodedImages, "
                "RenderedImages or uint8 (n, h, w, 3)"
            )
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8 or images.shape[3:] != (3,):
                raise ValueError(
                    f"{where}/images is {images.dtype} {images.shape}, expected uint8 "
                    "(n, h, w, 3), or encoded images"
                )

    def _check_lengths(self, where: str, n: int) -> None:
        stored = {"image_stats": "appearance"}  # name in the file, where it differs
        for name in ("ids", "groups", "images", "flaw", "image_stats"):
            value = getattr(self, name)
            if value is not None and (len(value) != n or (name == "flaw" and np.ndim(value) != 1)):
                raise ValueError(
                    f"{where}/{stored.get(name, name)} has {len(value)} entries for {n} labels; "
                    "store one per image"
                )

    def _check_names(self, where: str) -> None:
        if self.ids is not None and len(set(self.ids)) < len(self.ids):
            repeated = Counter(self.ids).most_common(1)[0][0]
            raise ValueError(
                f"{where}/ids has {repeated!r} more than once; ids name images, make them unique"
            )
        for name in ("ids", "groups"):
            entries = getattr(self, name)
            # A missing patient would count as one patient, to whom all such images belong.
            unnamed = [] if entries is None else [i for i, e in enumerate(entries) if not _named(e)]
            if unnamed:
                raise ValueError(
                    f"{where}/{name} has {len(unnamed)} entries without a name "
                    f"(first: {unnamed[0]}); name each, or give {name}=None"
                )


def _named(entry: object) -> bool:
    return entry is not None and entry == entry and entry != ""


Split = Dataset
"""Former name of :class:`Dataset`."""
