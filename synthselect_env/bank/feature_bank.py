"""FeatureBank: real splits and the candidate pool, in one HDF5 file."""

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

from synthselect_env.bank.hdf5 import read_retrainings, read_split, write_retrainings, write_split
from synthselect_env.data import LabelledImages
from synthselect_env.data.dataset import Retrainings, Split
from synthselect_env.data.images import picture_keys
from synthselect_env.metrics import METRICS
from synthselect_env.storage import atomic_write

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test", "candidates")
FEW = 10
"""Pictures of a class in a split, below which the bank warns."""
LEAST_VARIANCE = 1e-3
"""Added to the variance of each direction of appearance, in units of a statistic's own: two that say the same leave one without any."""
N_BATCHES = 8
"""The paper cuts its pool of 4,096 candidates into 8 batches of 512."""


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """What a selection is made from: real ``train``, ``valid`` and ``test`` splits, and the ``candidates``.

    :param train: real pictures that the classifier always trains on
    :param valid: real pictures that rewards are measured on
    :param test: real pictures for the final table; no reward sees them. None in a sealed bank, or when they are kept elsewhere
    :param candidates: the synthetic pool
    :param classes: class names, in label order
    :param extractor: what made the features
    :param provenance: JSON-able facts on where the pictures come from
    :param source: name used in error messages, e.g. the file
    :param retrainings: selections that were retrained, from which a :class:`~synthselect_env.evaluators.DatamodelEvaluator` learns
    :raises ValueError: when a split is malformed; the message names source, dataset and remedy
    """

    train: Split
    valid: Split
    test: Split | None
    candidates: Split
    classes: Sequence[str]
    extractor: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    source: str = "FeatureBank"
    retrainings: Retrainings | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes) or not all(isinstance(c, str) and c for c in self.classes):
            raise ValueError(f"{self.source}: classes must be two or more different names, got {list(self.classes)}")
        for name, split in self.splits.items():
            object.__setattr__(self, name, split.checked(f"{self.source}: {name}", len(self.classes)))
        widths = {name: split.features.shape[1] for name, split in self.splits.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"{self.source}: features differ in length ({widths}); extract all splits with the same extractor")
        looks = {name: split.appearance.shape[1] for name, split in self.splits.items() if split.appearance is not None}
        if len(set(looks.values())) > 1:
            raise ValueError(f"{self.source}: appearances differ in length ({looks}); extract all splits with the same release")
        empty = [c for i, c in enumerate(self.classes) if not (self.train.labels == i).any()]
        if empty:
            raise ValueError(f"{self.source}: train/labels has no picture of class {', '.join(empty)}; add some or drop the class")

        for name, split in self.splits.items():
            if name in ("valid", "test") and len(np.unique(split.labels)) < 2:
                raise ValueError(
                    f"{self.source}: {name}/labels has pictures of fewer than two classes; nothing can be scored on it, add some"
                )

        if self.retrainings is not None:
            self.retrainings.check(len(self.candidates), f"{self.source}: retrainings")

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name; without the test split in a sealed bank."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}

    @property
    def pictures(self) -> dict[str, LabelledImages]:
        """The splits' pictures by name, e.g. to see them through another extractor (:func:`~synthselect_env.bank.extraction.extract_bank`).

        :raises ValueError: when a split has none
        """
        bare = [name for name, split in self.splits.items() if split.images is None]
        if bare:
            raise ValueError(f"{self.source}: no pictures in {', '.join(bare)}; build the bank with them")
        return {
            name: LabelledImages(s.images, s.labels, s.ids or tuple(map(str, range(len(s)))), tuple(self.classes), s.groups, s.flaw)  # type: ignore[arg-type]
            for name, s in self.splits.items()
        }

    @cached_property
    def sealed(self) -> FeatureBank:
        """The same bank without its test split: what environments, evaluators and selectors get.

        It shares everything else, and knows no way back.
        """
        if self.test is None:
            return self
        sealed = copy.copy(self)
        object.__setattr__(sealed, "test", None)
        return sealed

    @cached_property
    def pictures_digest(self) -> str:
        """A name for what a retraining depends on: pictures and labels of train, valid and candidates, in their order."""
        splits = (self.train, self.valid, self.candidates)
        return hashlib.sha256(" ".join(split.pictures_digest for split in splits).encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """A name for all that a selection can depend on: features, pictures, labels, names, patients, known flaws and retrainings, not the test split."""
        content = hashlib.sha256(self.pictures_digest.encode())
        for split in (self.train, self.valid, self.candidates):
            content.update(split.features_digest.encode())
            content.update(b"".join(b"" if values is None else values.tobytes() for values in (split.flaw, split.appearance)))
            content.update(repr((split.ids, split.groups)).encode())
        if self.retrainings is not None:
            content.update(np.packbits(self.retrainings.selections, axis=1).tobytes())
            for metric in METRICS:
                content.update(np.ascontiguousarray(self.retrainings.figures[metric]).tobytes())
            if self.retrainings.own_log_probability is not None:
                content.update(self.retrainings.own_log_probability.tobytes())
        return content.hexdigest()

    @property
    def n_features(self) -> int:
        """Length d of a feature vector."""
        return self.train.features.shape[1]

    @cached_property
    def centroids(self) -> np.ndarray:
        """Mean real training feature of each class.  (c, d)"""
        return np.stack([self.train.features[self.train.labels == i].mean(0) for i in range(len(self.classes))])

    @cached_property
    def centroid_cosines(self) -> np.ndarray:
        """Cosine of each candidate to each class centroid.  (n, c)"""
        unit = self.centroids / np.maximum(np.linalg.norm(self.centroids, axis=1, keepdims=True), 1e-12)
        norms = np.maximum(np.linalg.norm(self.candidates.features, axis=1, keepdims=True), 1e-12)
        return self.candidates.features @ unit.T / norms

    @property
    def centroid_distances(self) -> np.ndarray:
        """Cosine distance of each candidate to the centroid of its own class, 0 to 2.  (n,)"""
        return 1 - self.centroid_cosines[np.arange(len(self.candidates)), self.candidates.labels]

    @cached_property
    def atypicality(self) -> np.ndarray | None:
        """How unlike the real training pictures each candidate looks: the Mahalanobis distance of its appearance.  (n,)

        About the square root of the number of statistics for a picture that looks like a real one. None where appearances are not
        known, or there are too few real ones to know their spread.
        """
        real, pool = self.train.appearance, self.candidates.appearance
        if real is None or pool is None or len(real) <= 2 * real.shape[1]:
            return None
        real, pool = real.astype(np.float64), pool.astype(np.float64)
        scale = np.maximum(real.std(0), 1e-9)
        centred = (real - real.mean(0)) / scale
        root = np.linalg.cholesky(centred.T @ centred / len(real) + LEAST_VARIANCE * np.eye(real.shape[1]))
        return np.linalg.norm(np.linalg.solve(root, ((pool - real.mean(0)) / scale).T), axis=0)

    @property
    def batches(self) -> list[np.ndarray]:
        """The pool in the paper's 8 batches; see :meth:`make_batches`."""
        return self.make_batches(N_BATCHES)

    def make_batches(self, n_batches: int) -> list[np.ndarray]:
        """Cut the pool into class-balanced batches in centroid order.

        Within its class, each candidate is ranked by its distance to the class centroid (ties by position); batch i takes
        the i-th part of each class. Within a batch the classes stand one after the other, nearest candidates first. Parts
        differ by at most one candidate a class where the pool does not divide evenly.

        :param n_batches: number of batches, at most the size of the pool
        :return: candidate positions, an int64 array a batch
        :raises ValueError: when there would be an empty batch
        """
        if not 1 <= n_batches <= len(self.candidates):
            raise ValueError(f"{self.source}: {len(self.candidates)} candidates cannot be cut into {n_batches} batches")
        parts: list[list[np.ndarray]] = [[] for _ in range(n_batches)]
        carry = 0  # where the last class's surplus ended, so that surpluses do not all fall into the first batches
        for label in range(len(self.classes)):
            members = np.flatnonzero(self.candidates.labels == label)
            members = members[np.argsort(self.centroid_distances[members], kind="stable")]
            sizes = np.full(n_batches, len(members) // n_batches)
            surplus = len(members) % n_batches
            sizes[(carry + np.arange(surplus)) % n_batches] += 1
            carry = (carry + surplus) % n_batches
            for part, piece in zip(parts, np.split(members, np.cumsum(sizes)[:-1])):
                part.append(piece)
        return [np.concatenate(part) for part in parts]

    def warnings(self) -> list[str]:
        """What makes figures on this bank doubtful: classes that are nearly empty, pictures or patients in two splits at once.

        Pictures are the same when their pixels are stored alike, or when their features are the same to half precision of a standard
        deviation of the real training features.
        """
        found = []
        for name, split in self.splits.items():
            for label, count in zip(self.classes, np.bincount(split.labels, minlength=len(self.classes))):
                if count < FEW and name != "candidates":
                    found.append(f"{name} has {count} pictures of class {label}; figures of that class mean little below {FEW}")
        mean, std = self.train.features.mean(0, np.float64), np.maximum(self.train.features.std(0, np.float64), 1e-12)
        pictures = {name: set() if split.images is None else set(picture_keys(split.images)) for name, split in self.splits.items()}
        rows: dict[str, set[bytes]] = {}
        for name, split in self.splits.items():
            rows[name] = set()
            for start in range(0, len(split), 4096):
                with np.errstate(over="ignore"):
                    part = ((split.features[start : start + 4096] - mean) / std).astype(np.float16)
                rows[name].update(row.tobytes() for row in part)
        for name, other in (("train", "valid"), ("train", "test"), ("valid", "test"), ("candidates", "valid"), ("candidates", "test")):
            if other not in rows:
                continue
            if shared := max(len(rows[name] & rows[other]), len(pictures[name] & pictures[other])):
                found.append(f"{name} and {other} share {shared} pictures; scores on {other} are too good")
            groups = set(getattr(self, name).groups or ()) & set(getattr(self, other).groups or ())
            if groups:
                found.append(f"{name} and {other} share {len(groups)} patients or slides, e.g. {min(groups)}; split by group")
        return found

    def describe(self) -> str:
        """A few lines on what is inside, and on what looks wrong."""
        lines = [f"{self.source}: {len(self.candidates):,} candidates, {self.n_features} features, classes {', '.join(self.classes)}"]
        for name, split in self.splits.items():
            counts = ", ".join(f"{c} {n:,}" for c, n in zip(self.classes, np.bincount(split.labels, minlength=len(self.classes))))
            extras = [what for what in ("images", "groups", "flaw", "appearance") if getattr(split, what) is not None]
            lines.append(f"  {name:<10} {len(split):>6,} ({counts})" + (f" with {', '.join(extras)}" if extras else ""))
        if len(self.candidates):
            distance = self.centroid_distances
            lines.append(f"  centroid distance of candidates {distance.mean():.3f} ± {distance.std():.3f}")
        if self.retrainings is not None:
            lines.append(f"  retrainings {len(self.retrainings.selections):>5,}")
        if self.extractor:
            lines.append(f"  extractor  {self.extractor}")
        for key, value in self.provenance.items():
            facts = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            lines.append(f"  {key.replace('_', ' ')}: {facts}")
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings())])

    def save(self, path: str | Path, half: bool | None = None) -> None:
        """Write the bank to one HDF5 file; an existing file is replaced only by a complete one.

        :param path: file to write
        :param half: store features in half precision, which halves their size; None where that loses nothing
        """
        with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["classes"] = list(self.classes)
            file.attrs["extractor"] = self.extractor
            file.attrs["provenance"] = json.dumps(self.provenance, default=_json_number)
            for name, split in self.splits.items():
                write_split(file.create_group(name), split, half)
            if self.retrainings is not None:
                write_retrainings(file.create_group("retrainings"), self.retrainings)

    @classmethod
    def load(cls, path: str | Path) -> FeatureBank:
        """Read and check a bank.

        :param path: a file that :meth:`save` wrote, or one of the same schema
        :raises FileNotFoundError: when there is no such file
        :raises ValueError: when it is not such a file; the message names file, dataset and remedy
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist; FeatureBank(…).save(path) writes a bank, load_bank(name) has the embedded ones"
            )
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise ValueError(f"{path} is not a readable HDF5 file ({error}); was it copied in full?") from error
        with file:
            version = file.attrs.get("schema_version")
            if version != SCHEMA_VERSION:
                raise ValueError(
                    f"{path}: attribute schema_version is {version}, this release reads {SCHEMA_VERSION}; "
                    + ("write the file with FeatureBank.save" if version is None else "update synthselect or rebuild the bank")
                )
            if "classes" not in file.attrs:
                raise ValueError(f"{path}: attribute classes is missing; set it to the class names in label order")
            missing = [name for name in SPLITS if name not in file and name != "test"]
            if missing:
                raise ValueError(f"{path}: group {', '.join(missing)} is missing; a bank has {', '.join(SPLITS)}")
            splits = {name: read_split(file[name], f"{path}: {name}") if name in file else None for name in SPLITS}
            try:
                provenance = json.loads(file.attrs.get("provenance", "{}"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}: attribute provenance is not JSON ({error})") from error
            return cls(
                **splits,  # type: ignore[arg-type]  # only test may be None
                retrainings=read_retrainings(file["retrainings"], len(splits["candidates"] or ()), f"{path}: retrainings")
                if "retrainings" in file
                else None,
                classes=[c.decode() if isinstance(c, bytes) else str(c) for c in file.attrs["classes"]],
                extractor=str(file.attrs.get("extractor", "")),
                provenance=provenance,
                source=str(path),
            )


def _json_number(value: Any) -> Any:
    """What JSON has no word for: numpy's numbers are numbers."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"provenance holds a {type(value).__name__}, {value!r}; give text, numbers, lists or dictionaries")
