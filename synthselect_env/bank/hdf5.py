"""HDF5 layout of a bank's datasets and retrainings."""

from __future__ import annotations

import json

import h5py
import numpy as np

from synthselect_env.bank.retrainings import Retrainings
from synthselect_env.data import Dataset, EncodedImages, LazyImages, RenderedImages


def write_dataset(group: h5py.Group, dataset: Dataset, half: bool | None) -> None:
    """Write a dataset to an HDF5 group.

    :param group: empty group
    :param dataset: dataset to write
    :param half: whether to store features in half precision; None where that loses nothing
    :raises ValueError: if features do not fit into half precision
    """
    features = _stored_features(dataset.features, half)
    if not np.isfinite(features).all():
        raise ValueError(
            f"{group.name}/features has values beyond half precision's 65,504; save with half=False"
        )
    group.create_dataset("features", data=features, compression="gzip", shuffle=True)
    group.create_dataset("labels", data=dataset.labels)
    text = h5py.string_dtype()
    for name in ("ids", "groups"):
        names = getattr(dataset, name)
        if names is not None:
            group.create_dataset(name, data=list(names), dtype=text, compression="gzip")
    if dataset.flaw is not None:
        group.create_dataset("flaw", data=dataset.flaw)
    if dataset.image_stats is not None:
        stats = dataset.image_stats
        group.create_dataset("appearance", data=stats, compression="gzip", shuffle=True)
    if dataset.images is not None:
        _write_images(group, dataset.images)


def _stored_features(features: np.ndarray, half: bool | None) -> np.ndarray:
    """Return features as they are stored, in half precision where asked or lossless."""
    if half is False:
        return features
    with np.errstate(over="ignore"):
        halved = features.astype(np.float16)
    lossless = half is None and np.array_equal(halved, features)
    return halved if half or lossless else features


def _write_images(parent: h5py.Group, images: LazyImages | np.ndarray) -> None:
    if isinstance(images, EncodedImages):
        # One byte string and its cuts. HDF5's own variable-length type costs a heap object each.
        group = parent.create_group("images")
        lengths = [len(blob) for blob in images.blobs]
        offsets = np.cumsum([0, *lengths], dtype=np.int64)
        group.create_dataset("offsets", data=offsets)
        encoded = group.create_dataset("bytes", (offsets[-1],), np.uint8)
        # Written one by one, as together they may be gigabytes.
        for blob, start, stop in zip(images.blobs, offsets, offsets[1:]):
            encoded[start:stop] = np.frombuffer(blob, np.uint8)
    elif isinstance(images, RenderedImages):
        group = parent.create_group("images")
        group.attrs["renderer"] = images.renderer
        group.attrs["arguments"] = json.dumps(images.arguments)
        group.create_dataset("positions", data=images.positions)
    else:
        parent.create_dataset("images", data=images, compression="gzip")


def read_dataset(group: h5py.Group, where: str) -> Dataset:
    """Read a dataset that :func:`write_dataset` wrote.

    :param group: group of the dataset
    :param where: file and split, for messages
    :raises ValueError: if something is missing or of the wrong type. Whether the numbers make sense
        is checked by the bank
    """
    # Check that everything is there.
    if not isinstance(group, h5py.Group):
        raise ValueError(
            f"{where} is a dataset, expected a group; a split has features (n, d) and labels (n,)"
        )
    for name in ("ids", "groups"):
        if name in group and h5py.check_string_dtype(group[name].dtype) is None:
            raise ValueError(
                f"{where}/{name} is {group[name].dtype}, expected strings; store names as text"
            )
    for name in ("features", "labels"):
        if not isinstance(group.get(name), h5py.Dataset):
            raise ValueError(
                f"{where}/{name} is missing; a split has features (n, d) and labels (n,)"
            )

    # Read it.
    return Dataset(
        features=group["features"][()],
        labels=group["labels"][()],
        ids=_read_names(group, "ids"),
        images=_read_images(group, where) if "images" in group else None,
        groups=_read_names(group, "groups"),
        flaw=group["flaw"][()] if "flaw" in group else None,
        image_stats=group["appearance"][()] if "appearance" in group else None,
    )


def _read_names(group: h5py.Group, name: str) -> list[str] | None:
    if name not in group:
        return None
    names: list[str] = group[name].asstr()[()].tolist()
    return names


def _read_images(parent: h5py.Group, where: str) -> LazyImages | np.ndarray:
    group = parent["images"]
    if not isinstance(group, h5py.Group):
        return group[()]
    return _read_rendered(group, where) if "positions" in group else _read_encoded(group, where)


def _read_rendered(group: h5py.Group, where: str) -> RenderedImages:
    try:
        return RenderedImages(
            renderer=str(group.attrs["renderer"]),
            arguments=json.loads(group.attrs["arguments"]),
            positions=group["positions"][()],
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{where}/images cannot be rendered ({error}); update synthselect, or delete the group"
        ) from error


def _read_encoded(group: h5py.Group, where: str) -> EncodedImages:
    missing = [name for name in ("bytes", "offsets") if name not in group]
    if missing:
        raise ValueError(
            f"{where}/images/{missing[0]} is missing; encoded images are one byte array "
            "with the offsets of their ends"
        )
    encoded = group["bytes"][()]
    offsets = group["offsets"][()]
    ends = offsets[[0, -1]].tolist() if len(offsets) else []
    is_rising = (np.diff(offsets) > 0).all()
    if ends != [0, len(encoded)] or not is_rising:
        raise ValueError(
            f"{where}/images/offsets must rise from 0 to {len(encoded)}, the number of bytes; "
            "write the images again"
        )
    cuts = zip(offsets[:-1], offsets[1:])
    return EncodedImages(encoded[start:stop].tobytes() for start, stop in cuts)


def write_retrainings(group: h5py.Group, retrainings: Retrainings) -> None:
    """Write retrainings to an HDF5 group, one bit per selection and candidate.

    :param group: empty group
    :param retrainings: retrainings to write
    """
    packed = np.packbits(retrainings.selections, axis=1)
    group.create_dataset("selections", data=packed, compression="gzip")
    for metric, values in retrainings.metrics.items():
        group.create_dataset(f"figures/{metric}", data=values)
    own = retrainings.own_log_probability
    if own is not None:
        group.create_dataset("own_log_probability", data=own, compression="gzip", shuffle=True)
    group.attrs["recipe"] = json.dumps(retrainings.training_config)
    group.attrs["pictures"] = retrainings.images_digest
    if retrainings.without_fold is not None:
        group.attrs["without_fold"] = retrainings.without_fold


def read_retrainings(group: h5py.Group, n: int, where: str) -> Retrainings:
    """Read retrainings that :func:`write_retrainings` wrote.

    :param group: group of the retrainings
    :param n: number of candidates
    :param where: file and group, for messages
    :raises ValueError: if something is missing, or they are not of n candidates
    """
    try:
        packed = group["selections"][()]
        metrics = {metric: values[()] for metric, values in group["figures"].items()}
        training_config = json.loads(group.attrs["recipe"])
        images_digest = str(group.attrs["pictures"])
        own = group["own_log_probability"][()] if "own_log_probability" in group else None
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{where} is not as FeatureBank.save writes it ({error}); "
            "retrain again, or delete the group"
        ) from error
    n_bytes = (n + 7) // 8
    if packed.ndim != 2 or packed.shape[1] != n_bytes:
        raise ValueError(
            f"{where}/selections is {packed.shape}, not of {n} candidates; "
            "retrain again, or delete the group"
        )
    bits = np.unpackbits(packed, axis=1, count=n)
    selections = bits.astype(bool)
    fold = group.attrs.get("without_fold")
    return Retrainings(
        selections=selections,
        metrics=metrics,
        training_config=training_config,
        images_digest=images_digest,
        own_log_probability=own,
        without_fold=None if fold is None else int(fold),
    )
