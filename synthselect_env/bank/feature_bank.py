"""FeatureBank: real splits and the pool of candidates, in one HDF5 file."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from synthselect_env.bank.batching import N_BATCHES, make_batches
from synthselect_env.bank.checks import classes_without_candidates, leaks, small_classes
from synthselect_env.bank.hdf5 import (
    read_dataset,
    read_retrainings,
    write_dataset,
    write_retrainings,
)
from synthselect_env.bank.retrainings import Retrainings
from synthselect_env.data import Dataset
from synthselect_env.metrics import METRICS
from synthselect_env.storage import atomic_write

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test", "candidates")


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """Everything that a selection is made from: three real splits, and the candidates.

    .. code-block:: python

        bank = FeatureBank.load("mine.h5")
        print(bank.describe())

    :param train: real images that the classifier always trains on
    :param valid: real images that rewards are measured on
    :param test: real images for the final table, which no reward sees. None in a sealed bank
    :param candidates: pool of synthetic images
    :param classes: class names in label order
    :param extractor: description of the network that made the features
    :param provenance: JSON-able facts on the origin of the images
    :param source: name of the bank in error messages, e.g. its file
    :param retrainings: retrained selections, which a
        :class:`~synthselect_env.evaluators.DatamodelEvaluator` learns from
    :raises ValueError: if a split is malformed; the message names source, dataset and remedy
    """

    train: Dataset
    valid: Dataset
    test: Dataset | None
    candidates: Dataset
    classes: Sequence[str]
    extractor: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    source: str = "FeatureBank"
    retrainings: Retrainings | None = None
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """Results computed from this bank by others, kept while it lives."""

    def __post_init__(self) -> None:
        # LabelEncoder.classes_ and np.unique hold numpy's own strings.
        plain = tuple(str(name) if isinstance(name, str) else name for name in self.classes)
        object.__setattr__(self, "classes", plain)
        names = [name for name in self.classes if isinstance(name, str) and name]
        if len(self.classes) < 2 or len(set(names)) < len(self.classes):
            raise ValueError(
                f"{self.source}: classes must be two or more different names, "
                f"got {list(self.classes)}"
            )
        for name, split in self.splits.items():
            checked = split.checked(f"{self.source}: {name}", self.classes)
            object.__setattr__(self, name, checked)
        self._check_widths()
        self._check_labels()
        if self.retrainings is not None:
            self.retrainings.check(len(self.candidates), f"{self.source}: retrainings")

    def _check_widths(self) -> None:
        widths = {name: split.features.shape[1] for name, split in self.splits.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"{self.source}: features differ in length ({widths}); "
                "extract all splits with the same extractor"
            )
        stats = {n: s.image_stats for n, s in self.splits.items() if s.image_stats is not None}
        widths = {name: values.shape[1] for name, values in stats.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"{self.source}: image statistics differ in length ({widths}); "
                "extract all splits with the same release"
            )

    def _check_labels(self) -> None:
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        empty = [name for name, count in zip(self.classes, counts) if not count]
        if empty:
            raise ValueError(
                f"{self.source}: train/labels has no image of class {', '.join(empty)}; "
                "add some or drop the class"
            )
        for name in ("valid", "test"):
            split = self.splits.get(name)
            if split is not None and len(np.unique(split.labels)) < 2:
                raise ValueError(
                    f"{self.source}: {name}/labels has images of fewer than two classes; "
                    "nothing can be scored on it, add some"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "derived": {}}

    @property
    def splits(self) -> dict[str, Dataset]:
        """The datasets that there are, by name. A sealed bank has no test split."""
        found = {name: getattr(self, name) for name in SPLITS}
        return {name: split for name, split in found.items() if split is not None}

    @cached_property
    def sealed(self) -> FeatureBank:
        """The same bank without its test split, as environments, evaluators and selectors get it.

        It shares everything else, and knows no way back.
        """
        if self.test is None:
            return self
        sealed = copy.copy(self)
        object.__setattr__(sealed, "test", None)
        return sealed

    @cached_property
    def images_digest(self) -> str:
        """SHA-256 of what a retraining depends on: images and labels of all but the test split."""
        splits = (self.train, self.valid, self.candidates)
        return hashlib.sha256(" ".join(s.images_digest for s in splits).encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that a selection can depend on. The test split is not part of it."""
        content = hashlib.sha256(self.images_digest.encode())
        for split in (self.train, self.valid, self.candidates):
            content.update(split.features_digest.encode())
            for values in (split.flaw, split.image_stats):
                content.update(b"" if values is None else values.tobytes())
            content.update(repr((split.ids, split.groups)).encode())
        if self.retrainings is not None:
            content.update(np.packbits(self.retrainings.selections, axis=1).tobytes())
            for metric in METRICS:
                content.update(np.ascontiguousarray(self.retrainings.metrics[metric]).tobytes())
            if self.retrainings.own_log_probability is not None:
                content.update(self.retrainings.own_log_probability.tobytes())
            if self.retrainings.without_fold is not None:
                content.update(f"without fold {self.retrainings.without_fold}".encode())
        return content.hexdigest()

    @property
    def n_features(self) -> int:
        """Length d of a feature vector."""
        return self.train.features.shape[1]

    @cached_property
    def centroids(self) -> np.ndarray:
        """Mean real training feature of each class.  (c, d)"""
        features, labels = self.train.features, self.train.labels
        return np.stack([features[labels == i].mean(0) for i in range(len(self.classes))])

    @cached_property
    def centroid_cosines(self) -> np.ndarray:
        """Cosine of each candidate to each class centroid.  (n, c)"""
        lengths = np.linalg.norm(self.centroids, axis=1, keepdims=True)
        unit = self.centroids / np.maximum(lengths, 1e-12)
        norms = np.linalg.norm(self.candidates.features, axis=1, keepdims=True)
        return self.candidates.features @ unit.T / np.maximum(norms, 1e-12)

    @property
    def centroid_distances(self) -> np.ndarray:
        """Cosine distance of each candidate to the centroid of its own class, 0 to 2.  (n,)"""
        positions = np.arange(len(self.candidates))
        return 1 - self.centroid_cosines[positions, self.candidates.labels]

    @property
    def batches(self) -> list[np.ndarray]:
        """The pool in the paper's 8 batches; see :meth:`make_batches`."""
        return self.make_batches(N_BATCHES)

    def make_batches(self, n_batches: int) -> list[np.ndarray]:
        """Cut the pool into class-balanced batches in centroid order.

        See :func:`~synthselect_env.bank.batching.make_batches`.

        :param n_batches: number of batches, at most the size of the pool
        :return: candidate positions, one int64 array per batch
        :raises ValueError: if a batch would be empty
        """
        labels, distances = self.candidates.labels, self.centroid_distances
        try:
            return make_batches(labels, distances, len(self.classes), n_batches)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error

    def warnings(self) -> list[str]:
        """Return what makes this bank doubtful.

        That is a tiny class, a class without candidates, or a leak between splits.
        """
        classes = tuple(self.classes)
        tiny = small_classes(self.splits, classes)
        return tiny + classes_without_candidates(self.candidates, classes) + leaks(self.splits)

    def describe(self) -> str:
        """Return a few lines on the bank's content and on what looks wrong."""
        classes = ", ".join(self.classes)
        lines = [
            f"{self.source}: {len(self.candidates):,} candidates, {self.n_features} features, "
            f"classes {classes}"
        ]
        for name, split in self.splits.items():
            numbers = np.bincount(split.labels, minlength=len(self.classes))
            counts = ", ".join(f"{c} {n:,}" for c, n in zip(self.classes, numbers))
            optional = ("images", "groups", "flaw", "image_stats")
            extras = [n.replace("_", " ") for n in optional if getattr(split, n) is not None]
            ending = f" with {', '.join(extras)}" if extras else ""
            lines.append(f"  {name:<10} {len(split):>6,} ({counts}){ending}")
        if len(self.candidates):
            distance = self.centroid_distances
            lines.append(
                f"  centroid distance of candidates {distance.mean():.3f} ± {distance.std():.3f}"
            )
        if self.retrainings is not None:
            lines.append(f"  retrainings {len(self.retrainings.selections):>5,}")
        if self.extractor:
            lines.append(f"  extractor  {self.extractor}")
        for key, value in self.provenance.items():
            facts = value
            if isinstance(value, dict):
                facts = ", ".join(f"{k} {v}" for k, v in value.items())
            lines.append(f"  {key.replace('_', ' ')}: {facts}")
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings())])

    def save(self, path: str | Path, half: bool | None = None) -> None:
        """Write the bank to one HDF5 file, which is replaced only by a complete one.

        :param path: file to write
        :param half: whether to store features in half precision, which halves their size; None
            where that loses nothing
        """
        with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["classes"] = list(self.classes)
            file.attrs["extractor"] = self.extractor
            file.attrs["provenance"] = json.dumps(self.provenance, default=_json_number)
            for name, split in self.splits.items():
                write_dataset(file.create_group(name), split, half)
            if self.retrainings is not None:
                write_retrainings(file.create_group("retrainings"), self.retrainings)

    @classmethod
    def load(cls, path: str | Path) -> FeatureBank:
        """Read and check a bank.

        :param path: file of :meth:`save`, or one of the same schema
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if it is no complete bank; the message says what is wrong where
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give the path of a bank's HDF5 file")
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise ValueError(
                f"{path} is not a readable HDF5 file ({error}); was it copied in full?"
            ) from error
        with file:
            _check_schema(file, path)
            splits: dict[str, Any] = {name: None for name in SPLITS}
            for name in SPLITS:
                if name in file:
                    splits[name] = read_dataset(file[name], f"{path}: {name}")
            retrainings = None
            if "retrainings" in file:
                n = len(splits["candidates"])
                where = f"{path}: retrainings"
                retrainings = read_retrainings(file["retrainings"], n, where)
            try:
                provenance = json.loads(file.attrs.get("provenance", "{}"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}: attribute provenance is not JSON ({error})") from error
            if not isinstance(provenance, dict):
                raise ValueError(
                    f"{path}: attribute provenance is {provenance!r}; it must be a JSON object"
                )
            classes = file.attrs["classes"]
            if np.ndim(classes) != 1:
                raise ValueError(
                    f"{path}: attribute classes is {classes!r}; it must be an array of names"
                )
            return cls(
                **splits,
                classes=[c.decode() if isinstance(c, bytes) else str(c) for c in classes],
                extractor=str(file.attrs.get("extractor", "")),
                provenance=provenance,
                source=str(path),
                retrainings=retrainings,
            )


def _check_schema(file: h5py.File, path: Path) -> None:
    """Check that a file has the groups and attributes of a bank."""
    version = file.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        remedy = "update synthselect or rebuild the bank"
        if version is None:
            remedy = "write the file with FeatureBank.save"
        raise ValueError(
            f"{path}: attribute schema_version is {version}, "
            f"this release reads {SCHEMA_VERSION}; {remedy}"
        )
    if "classes" not in file.attrs:
        raise ValueError(
            f"{path}: attribute classes is missing; set it to the class names in label order"
        )
    missing = [name for name in SPLITS if name not in file and name != "test"]
    if missing:
        raise ValueError(
            f"{path}: group {', '.join(missing)} is missing; a bank has {', '.join(SPLITS)}"
        )


def _json_number(value: Any) -> Any:
    """Return a numpy number as a Python one, which JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(
        f"provenance holds a {type(value).__name__}, {value!r}; "
        "give text, numbers, lists or dictionaries"
    )
