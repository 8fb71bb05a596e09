"""How splits and retrainings are laid out in a bank's HDF5 file."""

from __future__ import annotations

import json

import h5py
import numpy as np

from synthselect_env.bank.retrainings import Retrainings
from synthselect_env.data import Dataset, EncodedImages, LazyImages, RenderedImages


def write_dataset(group: h5py.Group, split: Dataset, half: bool | None) -> None:
    """Write a split.

    :param group: an empty one
    :param split: what to write
    :param half: store features in half precision; None where that loses nothing
    :raises ValueError: when features do not fit into half precision
    """
    features = split.features
    if half is not False:
        with np.errstate(over="ignore"):
            features = features.astype(np.float16)
        if half is None and not np.array_equal(features, split.features):
            features = split.features
    if not np.isfinite(features).all():
        raise ValueError(
            f"{group.name}/features has values beyond half precision's 65,504; save with half=False"
        )
    group.create_dataset("features", data=features, compression="gzip", shuffle=True)
    group.create_dataset("labels", data=split.labels)
    for name in ("ids", "groups"):
        if getattr(split, name) is not None:
            group.create_dataset(
                name, data=list(getattr(split, name)), dtype=h5py.string_dtype(), compression="gzip"
            )
    if split.flaw is not None:
        group.create_dataset("flaw", data=split.flaw)
    if split.image_stats is not None:
        group.create_dataset("appearance", data=split.image_stats, compression="gzip", shuffle=True)
    if isinstance(split.images, EncodedImages):
        # one byte string and its cuts: HDF5's own variable-length type costs a heap object a image
        encoded = group.create_group("images")
        offsets = np.cumsum([0, *map(len, split.images.blobs)], dtype=np.int64)
        encoded.create_dataset("offsets", data=offsets)
        everything = encoded.create_dataset("bytes", (offsets[-1],), np.uint8)
        for start, blob in zip(
            offsets[:-1].tolist(), split.images.blobs
        ):  # one by one: together they may be gigabytes
            everything[start : start + len(blob)] = np.frombuffer(blob, np.uint8)
    elif isinstance(split.images, RenderedImages):
        recipe = group.create_group("images")
        recipe.attrs["renderer"], recipe.attrs["arguments"] = (
            split.images.renderer,
            json.dumps(split.images.arguments),
        )
        recipe.create_dataset("positions", data=split.images.positions)
    elif split.images is not None:
        group.create_dataset("images", data=split.images, compression="gzip")


def read_dataset(group: h5py.Group, where: str) -> Dataset:
    """Read what :func:`write_split` wrote.

    :param group: the split's
    :param where: file and split, for messages
    :raises ValueError: when something is missing or of the wrong type; whether the numbers make sense, the bank checks
    """
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
    names = {name: group[name].asstr()[()].tolist() for name in ("ids", "groups") if name in group}
    images: LazyImages | np.ndarray | None = None
    if isinstance(group.get("images"), h5py.Group) and "positions" in group["images"]:
        recipe = group["images"]
        try:
            images = RenderedImages(
                str(recipe.attrs["renderer"]),
                json.loads(recipe.attrs["arguments"]),
                recipe["positions"][()],
            )
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{where}/images cannot be rendered ({error}); update synthselect, or delete the group"
            ) from error
    elif isinstance(group.get("images"), h5py.Group):
        if missing := [name for name in ("bytes", "offsets") if name not in group["images"]]:
            raise ValueError(
                f"{where}/images/{missing[0]} is missing; encoded pictures are one byte array with the offsets of their ends"
            )
        encoded, offsets = group["images/bytes"][()], group["images/offsets"][()]
        if (
            len(offsets) < 1
            or offsets[0] != 0
            or offsets[-1] != len(encoded)
            or (np.diff(offsets) <= 0).any()
        ):
            raise ValueError(
                f"{where}/images/offsets must rise from 0 to {len(encoded)}, the number of bytes; write the pictures again"
            )
        images = EncodedImages(encoded[a:b].tobytes() for a, b in zip(offsets[:-1], offsets[1:]))
    elif "images" in group:
        images = group["images"][()]
    flaw, looks = (group[name][()] if name in group else None for name in ("flaw", "appearance"))
    return Dataset(
        group["features"][()],
        group["labels"][()],
        images=images,
        flaw=flaw,
        image_stats=looks,
        **names,
    )


def write_retrainings(group: h5py.Group, retrainings: Retrainings) -> None:
    """Write retrainings, a bit a candidate."""
    group.create_dataset(
        "selections", data=np.packbits(retrainings.selections, axis=1), compression="gzip"
    )
    for metric, values in retrainings.metrics.items():
        group.create_dataset(f"figures/{metric}", data=values)
    if retrainings.own_log_probability is not None:
        group.create_dataset(
            "own_log_probability",
            data=retrainings.own_log_probability,
            compression="gzip",
            shuffle=True,
        )
    group.attrs["recipe"], group.attrs["pictures"] = (
        json.dumps(retrainings.training_config),
        retrainings.images_digest,
    )


def read_retrainings(group: h5py.Group, n: int, where: str) -> Retrainings:
    """Read what :func:`write_retrainings` wrote.

    :param group: the retrainings'
    :param n: number of candidates
    :param where: file and group, for messages
    :raises ValueError: when they are not as written, or not of n candidates
    """
    try:
        packed, figures = (
            group["selections"][()],
            {metric: values[()] for metric, values in group["figures"].items()},
        )
        recipe, pictures = json.loads(group.attrs["recipe"]), str(group.attrs["pictures"])
        own = group["own_log_probability"][()] if "own_log_probability" in group else None
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{where} is not as FeatureBank.save writes it ({error}); retrain again, or delete the group"
        ) from error
    if packed.ndim != 2 or packed.shape[1] != (n + 7) // 8:
        raise ValueError(
            f"{where}/selections is {packed.shape}, not of {n} candidates; retrain again, or delete the group"
        )
    return Retrainings(
        np.unpackbits(packed, axis=1, count=n).astype(bool), figures, recipe, pictures, own
    )
