"""FeatureBank: real splits and the candidate pool, in one HDF5 file."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from synthselect_env.data import EncodedImages, LazyImages, RenderedImages
from synthselect_env.data.images import pictures_digest
from synthselect_env.files import atomic_write
from synthselect_env.metrics import METRICS

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test", "candidates")
FEW = 10
"""Pictures of a class in a split, below which the bank warns."""
LEAST_VARIANCE = 1e-3
"""Added to the variance of each direction of appearance, in units of a statistic's own: two that say the same leave one without any."""
N_BATCHES = 8
"""The paper cuts its pool of 4,096 candidates into 8 batches of 512."""


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures as feature vectors, with what is known of each.

    :param features: float (n, d); a float32 memory map stays one
    :param labels: int (n,), positions in the bank's ``classes``
    :param ids: a unique name each, e.g. the file's
    :param images: the pictures, encoded, rendered or uint8 (n, h, w, 3); needed for full retraining and for reports
    :param groups: patient or slide of each
    :param flaw: int8 (n,), 0 for a sound candidate; only in known-truth banks, and never shown to an agent
    :param appearance: float (n, s), how each picture looks whatever it shows; see :func:`~synthselect_env.data.appearance`
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
        """The pictures at ``index`` (positions or a boolean mask), in that order."""
        positions = np.flatnonzero(index) if index.dtype == bool else index
        ids, groups = (None if names is None else tuple(names[int(i)] for i in positions) for names in (self.ids, self.groups))
        images, flaw, looks = (None if values is None else values[positions] for values in (self.images, self.flaw, self.appearance))
        return Split(self.features[positions], self.labels[positions], ids, images, groups, flaw, looks)  # type: ignore[arg-type]

    @cached_property
    def features_digest(self) -> str:
        """A name for features and labels, to key caches by."""
        content = hashlib.sha256(self.labels.tobytes())
        content.update(np.ascontiguousarray(self.features).data)
        return content.hexdigest()

    @cached_property
    def pictures_digest(self) -> str:
        """A name for pictures and labels, which another extractor does not change."""
        return pictures_digest(self.images, self.labels)


@dataclass(frozen=True, eq=False)
class Retrainings:
    """Selections that a network was retrained on in full, and what it scored on the validation split.

    :param selections: bool (m, n)
    :param figures: metric to (m, e), the last e epochs
    :param recipe: JSON-able facts: how the network was trained, with which seed
    :param pictures: the :attr:`FeatureBank.pictures_digest` of what was trained and scored on
    """

    selections: np.ndarray
    figures: dict[str, np.ndarray]
    recipe: dict[str, Any]
    pictures: str


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
            object.__setattr__(self, name, _checked(split, f"{self.source}: {name}", len(self.classes)))
        widths = {name: split.features.shape[1] for name, split in self.splits.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"{self.source}: features differ in length ({widths}); extract all splits with the same extractor")
        empty = [c for i, c in enumerate(self.classes) if not (self.train.labels == i).any()]
        if empty:
            raise ValueError(f"{self.source}: train/labels has no picture of class {', '.join(empty)}; add some or drop the class")

        for name, split in self.splits.items():
            if name in ("valid", "test") and len(np.unique(split.labels)) < 2:
                raise ValueError(
                    f"{self.source}: {name}/labels has pictures of fewer than two classes; nothing can be scored on it, add some"
                )

        if self.retrainings is not None:
            _check_retrainings(self.retrainings, len(self.candidates), f"{self.source}: retrainings")

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name; without the test split in a sealed bank."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}

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
        """A name for all that a selection can depend on: features, pictures, labels, known flaws and retrainings, not the test split."""
        content = hashlib.sha256(self.pictures_digest.encode())
        for split in (self.train, self.valid, self.candidates):
            content.update(split.features_digest.encode())
            content.update(b"".join(b"" if values is None else values.tobytes() for values in (split.flaw, split.appearance)))
        if self.retrainings is not None:
            content.update(np.packbits(self.retrainings.selections, axis=1).tobytes())
            for metric in METRICS:
                content.update(np.ascontiguousarray(self.retrainings.figures[metric]).tobytes())
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

        Pictures are the same when their features are, to half precision.
        """
        found = []
        for name, split in self.splits.items():
            for label, count in zip(self.classes, np.bincount(split.labels, minlength=len(self.classes))):
                if count < FEW and name != "candidates":
                    found.append(f"{name} has {count} pictures of class {label}; figures of that class mean little below {FEW}")
        with np.errstate(over="ignore"):
            rows = {name: {row.tobytes() for row in split.features.astype(np.float16)} for name, split in self.splits.items()}
        for name, other in (("train", "valid"), ("train", "test"), ("valid", "test"), ("candidates", "valid"), ("candidates", "test")):
            if other not in rows:
                continue
            if shared := len(rows[name] & rows[other]):
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
            file.attrs["provenance"] = json.dumps(self.provenance)
            for name, split in self.splits.items():
                _write_split(file.create_group(name), split, half)
            if self.retrainings is not None:
                group = file.create_group("retrainings")
                group.create_dataset("selections", data=np.packbits(self.retrainings.selections, axis=1), compression="gzip")
                for metric, values in self.retrainings.figures.items():
                    group.create_dataset(f"figures/{metric}", data=values)
                group.attrs["recipe"], group.attrs["pictures"] = json.dumps(self.retrainings.recipe), self.retrainings.pictures

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
            splits = {name: _read_split(file[name], f"{path}: {name}") if name in file else None for name in SPLITS}
            try:
                provenance = json.loads(file.attrs.get("provenance", "{}"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}: attribute provenance is not JSON ({error})") from error
            return cls(
                **splits,  # type: ignore[arg-type]  # only test may be None
                retrainings=_read_retrainings(file["retrainings"], len(splits["candidates"] or ()), f"{path}: retrainings")
                if "retrainings" in file
                else None,
                classes=[c.decode() if isinstance(c, bytes) else str(c) for c in file.attrs["classes"]],
                extractor=str(file.attrs.get("extractor", "")),
                provenance=provenance,
                source=str(path),
            )


def _checked(split: Split, where: str, n_classes: int) -> Split:
    """The split with float32 features, int64 labels and tuples of names, or a ValueError that says what is wrong."""
    features, labels = np.asarray(split.features), np.asarray(split.labels)
    if features.ndim != 2 or features.dtype.kind != "f" or not features.shape[1]:
        raise ValueError(f"{where}/features is {features.dtype} {features.shape}, expected floats (n, d); store one row a picture")
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{where}/labels is {labels.dtype} {labels.shape}, expected integers ({len(features)},); store one label a feature row"
        )
    features = features.astype(np.float32, copy=False)
    # in parts: the features may be a memory map that is larger than the memory
    bad = np.concatenate([i + np.flatnonzero(~np.isfinite(features[i : i + 65536]).all(1)) for i in range(0, max(len(features), 1), 65536)])
    if len(bad):
        raise ValueError(f"{where}/features has {len(bad)} rows with NaN or infinity (first: {bad[0]}); extract them again or drop them")
    outside = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(outside):
        raise ValueError(
            f"{where}/labels has {len(outside)} labels outside 0..{n_classes - 1} (first: {labels[outside[0]]} in row {outside[0]}); labels are positions in classes"
        )
    for name in ("ids", "groups", "images", "flaw", "appearance"):
        value = getattr(split, name)
        if name == "images" and not isinstance(value, LazyImages | np.ndarray | None):
            raise ValueError(f"{where}/images is a {type(value).__name__}, expected EncodedImages, RenderedImages or uint8 (n, h, w, 3)")
        if value is not None and (len(value) != len(labels) or (name == "flaw" and np.ndim(value) != 1)):
            raise ValueError(f"{where}/{name} has {len(value)} entries for {len(labels)} labels; store one a picture")
    if split.ids is not None and len(set(split.ids)) < len(labels):
        twice = next(i for i in split.ids if list(split.ids).count(i) > 1)
        raise ValueError(f"{where}/ids has {twice!r} more than once; ids name pictures, make them unique")
    if isinstance(split.images, np.ndarray) and (split.images.dtype != np.uint8 or split.images.shape[3:] != (3,)):
        raise ValueError(f"{where}/images is {split.images.dtype} {split.images.shape}, expected uint8 (n, h, w, 3), or encoded pictures")
    ids, groups = (None if names is None else tuple(map(str, names)) for names in (split.ids, split.groups))
    flaw = None if split.flaw is None else np.asarray(split.flaw, np.int8)
    looks = None if split.appearance is None else np.asarray(split.appearance, np.float32)
    if looks is not None and (looks.ndim != 2 or not np.isfinite(looks).all()):
        raise ValueError(f"{where}/appearance is {looks.shape} or not finite, expected numbers (n, s); extract the bank again")
    labels = labels.astype(np.int64, copy=False)
    return replace(split, features=features, labels=labels, ids=ids, groups=groups, flaw=flaw, appearance=looks)


def _read_retrainings(group: h5py.Group, n: int, where: str) -> Retrainings:
    try:
        packed, figures = group["selections"][()], {metric: values[()] for metric, values in group["figures"].items()}
        recipe, pictures = json.loads(group.attrs["recipe"]), str(group.attrs["pictures"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{where} is not as FeatureBank.save writes it ({error}); retrain again, or delete the group") from error
    if packed.ndim != 2 or packed.shape[1] != (n + 7) // 8:
        raise ValueError(f"{where}/selections is {packed.shape}, not of {n} candidates; retrain again, or delete the group")
    return Retrainings(np.unpackbits(packed, axis=1, count=n).astype(bool), figures, recipe, pictures)


def _check_retrainings(retrainings: Retrainings, n: int, where: str) -> None:
    m = len(retrainings.selections)
    if retrainings.selections.shape != (m, n) or retrainings.selections.dtype != bool:
        raise ValueError(f"{where}/selections is {retrainings.selections.dtype} {retrainings.selections.shape}, expected bool (m, {n})")
    if missing := [metric for metric in METRICS if metric not in retrainings.figures]:
        raise ValueError(f"{where}/figures lacks {', '.join(missing)}; a retraining has all metrics")
    wrong = [f"{metric} {values.shape}" for metric, values in retrainings.figures.items() if values.ndim != 2 or len(values) != m]
    if wrong:
        raise ValueError(f"{where}/figures must be arrays ({m}, epochs), a row a retraining; got {', '.join(wrong)}")


def _write_split(group: h5py.Group, split: Split, half: bool | None) -> None:
    features = split.features
    if half is not False:
        with np.errstate(over="ignore"):
            features = features.astype(np.float16)
        if half is None and not np.array_equal(features, split.features):
            features = split.features
    if not np.isfinite(features).all():
        raise ValueError(f"{group.name}/features has values beyond half precision's 65,504; save with half=False")
    group.create_dataset("features", data=features, compression="gzip", shuffle=True)
    group.create_dataset("labels", data=split.labels)
    for name in ("ids", "groups"):
        if getattr(split, name) is not None:
            group.create_dataset(name, data=list(getattr(split, name)), dtype=h5py.string_dtype(), compression="gzip")
    if split.flaw is not None:
        group.create_dataset("flaw", data=split.flaw)
    if split.appearance is not None:
        group.create_dataset("appearance", data=split.appearance, compression="gzip", shuffle=True)
    if isinstance(split.images, EncodedImages):
        # one byte string and its cuts: HDF5's own variable-length type costs a heap object a picture
        encoded = group.create_group("images")
        encoded.create_dataset("bytes", data=np.frombuffer(b"".join(split.images.blobs), np.uint8))
        encoded.create_dataset("offsets", data=np.cumsum([0, *map(len, split.images.blobs)], dtype=np.int64))
    elif isinstance(split.images, RenderedImages):
        recipe = group.create_group("images")
        recipe.attrs["renderer"], recipe.attrs["arguments"] = split.images.renderer, json.dumps(split.images.arguments)
        recipe.create_dataset("positions", data=split.images.positions)
    elif split.images is not None:
        group.create_dataset("images", data=split.images, compression="gzip")


def _read_split(group: h5py.Group, where: str) -> Split:
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{where} is a dataset, expected a group; a split has features (n, d) and labels (n,)")
    for name in ("ids", "groups"):
        if name in group and h5py.check_string_dtype(group[name].dtype) is None:
            raise ValueError(f"{where}/{name} is {group[name].dtype}, expected strings; store names as text")
    for name in ("features", "labels"):
        if not isinstance(group.get(name), h5py.Dataset):
            raise ValueError(f"{where}/{name} is missing; a split has features (n, d) and labels (n,)")
    names = {name: group[name].asstr()[()].tolist() for name in ("ids", "groups") if name in group}
    images: LazyImages | np.ndarray | None = None
    if isinstance(group.get("images"), h5py.Group) and "positions" in group["images"]:
        recipe = group["images"]
        try:
            images = RenderedImages(str(recipe.attrs["renderer"]), json.loads(recipe.attrs["arguments"]), recipe["positions"][()])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{where}/images cannot be rendered ({error}); update synthselect, or delete the group") from error
    elif isinstance(group.get("images"), h5py.Group):
        if missing := [name for name in ("bytes", "offsets") if name not in group["images"]]:
            raise ValueError(f"{where}/images/{missing[0]} is missing; encoded pictures are one byte array with the offsets of their ends")
        blob, offsets = group["images/bytes"][()].tobytes(), group["images/offsets"][()]
        if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(blob) or (np.diff(offsets) <= 0).any():
            raise ValueError(f"{where}/images/offsets must rise from 0 to {len(blob)}, the number of bytes; write the pictures again")
        images = EncodedImages(blob[a:b] for a, b in zip(offsets[:-1], offsets[1:]))
    elif "images" in group:
        images = group["images"][()]
    flaw, looks = (group[name][()] if name in group else None for name in ("flaw", "appearance"))
    return Split(group["features"][()], group["labels"][()], images=images, flaw=flaw, appearance=looks, **names)
