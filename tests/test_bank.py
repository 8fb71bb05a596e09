from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from synthselect_env import FeatureBank, Selection, Dataset, load_bank
from synthselect_env.bank import SPLITS
from synthselect_env.data import EncodedImages
from synthselect_env.data.images import images_digest


def pool(per_class: tuple[int, ...], d: int = 5) -> FeatureBank:
    rng = np.random.default_rng(0)

    def split(counts: tuple[int, ...]) -> Dataset:
        labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        return Dataset(rng.normal(size=(len(labels), d)).astype(np.float32), labels)

    real = (6,) * len(per_class)
    return FeatureBank(
        split(real),
        split(real),
        split(real),
        split(per_class),
        [f"class {i}" for i in range(len(per_class))],
    )


@pytest.mark.parametrize("encoded", [True, False], ids=["encoded", "pixels"])
def test_round_trip_is_lossless(toy: FeatureBank, tmp_path: Path, encoded: bool) -> None:
    def dress(split: Dataset) -> Dataset:
        images = EncodedImages.encode(split.images) if encoded else split.images
        looks = np.random.default_rng(0).normal(size=(len(split), 3)).astype(np.float32)
        return replace(
            split,
            images=images,
            groups=[f"patient {i % 3}" for i in range(len(split))],
            image_stats=looks,
        )

    bank = replace(toy, **{name: dress(getattr(toy, name)) for name in SPLITS})
    bank.save(tmp_path / "bank.h5")
    read = FeatureBank.load(tmp_path / "bank.h5")
    assert (read.classes, read.extractor, read.provenance) == (
        bank.classes,
        bank.extractor,
        bank.provenance,
    )
    for name in SPLITS:
        ours, theirs = getattr(bank, name), getattr(read, name)
        assert (ours.features == theirs.features).all() and theirs.features.dtype == np.float32
        assert (
            (ours.labels == theirs.labels).all()
            and ours.ids == theirs.ids
            and ours.groups == theirs.groups
        )
        assert ours.images == theirs.images if encoded else (ours.images == theirs.images).all()
        assert np.array_equal(ours.image_stats, theirs.image_stats)
        assert (ours.flaw is None) == (theirs.flaw is None) and (
            ours.flaw is None or (ours.flaw == theirs.flaw).all()
        )
    assert [p.name for p in tmp_path.iterdir()] == ["bank.h5"]  # no temporary file is left


def test_half_precision_is_close_and_refuses_overflow(toy: FeatureBank, tmp_path: Path) -> None:
    toy.save(tmp_path / "half.h5", half=True)
    assert (
        np.abs(FeatureBank.load(tmp_path / "half.h5").train.features - toy.train.features).max()
        < 5e-3
    )
    large = replace(toy, valid=replace(toy.valid, features=toy.valid.features * 1e6))
    with pytest.raises(ValueError, match="half=False"), np.errstate(over="ignore"):
        large.save(tmp_path / "large.h5", half=True)
    assert not (tmp_path / "large.h5").exists()


def damage_nan(file: h5py.File) -> None:
    file["candidates/features"][17] = np.nan


def damage_label(file: h5py.File) -> None:
    file["valid/labels"][3] = 2


def damage_length(file: h5py.File) -> None:
    del file["test/labels"]
    file["test/labels"] = np.zeros(5, np.int64)


def damage_dtype(file: h5py.File) -> None:
    del file["train/features"]
    file["train/features"] = np.zeros((24, 8), np.int64)


def damage_width(file: h5py.File) -> None:
    del file["test/features"]
    file["test/features"] = np.zeros((512, 7), np.float32)


def damage_version(file: h5py.File) -> None:
    file.attrs["schema_version"] = 99


def damage_missing(file: h5py.File) -> None:
    del file["candidates"]


def damage_classes(file: h5py.File) -> None:
    file.attrs["classes"] = ["same", "same"]


def damage_no_labels(file: h5py.File) -> None:
    del file["train/labels"]


def damage_ids(file: h5py.File) -> None:
    file["candidates/ids"][1] = file["candidates/ids"][0]


def damage_one_class(file: h5py.File) -> None:
    file["valid/labels"][...] = 1


def damage_id_type(file: h5py.File) -> None:
    del file["train/ids"]
    file["train/ids"] = np.arange(24)


def damage_group(file: h5py.File) -> None:
    del file["test"]
    file["test"] = np.arange(3)


def damage_flaw(file: h5py.File) -> None:
    del file["candidates/flaw"]
    file["candidates/flaw"] = np.zeros((64, 2), np.int8)


@pytest.mark.parametrize(
    ("damage", "where", "remedy"),
    [
        (damage_nan, "candidates/features has 1 rows with NaN or infinity .first: 17", "extract"),
        (damage_label, "valid/labels has 1 labels outside 0..1", "positions in classes"),
        (damage_length, "test/labels", "one label a feature row"),
        (damage_dtype, "train/features is int64", "floats"),
        (damage_width, "features differ in length", "same extractor"),
        (damage_version, "schema_version is 99", "update"),
        (damage_missing, "group candidates is missing", "a bank has"),
        (damage_classes, "classes must be two or more different names", "different"),
        (damage_no_labels, "train/labels is missing", "labels"),
        (damage_ids, "candidates/ids has", "unique"),
        (damage_one_class, "valid/labels has pictures of fewer than two classes", "add some"),
        (damage_id_type, "train/ids is int64, expected strings", "text"),
        (damage_group, "test is a dataset, expected a group", "features"),
        (damage_flaw, "candidates/flaw", "one a picture"),
    ],
)
def test_damaged_files_say_what_where_and_what_to_do(
    toy: FeatureBank, tmp_path: Path, damage: Callable[[h5py.File], None], where: str, remedy: str
) -> None:
    path = tmp_path / "bank.h5"
    toy.save(path)
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(ValueError, match=where) as error:
        FeatureBank.load(path)
    assert "bank.h5" in str(error.value) and remedy in str(error.value)


def test_byte_string_classes_are_read(toy: FeatureBank, tmp_path: Path) -> None:
    toy.save(tmp_path / "bank.h5")
    with h5py.File(tmp_path / "bank.h5", "a") as file:
        file.attrs["classes"] = np.array([b"left", b"right"])
    assert FeatureBank.load(tmp_path / "bank.h5").classes == ("left", "right")


def test_not_a_bank(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="load_bank"):
        FeatureBank.load(tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match="not a readable HDF5 file"):
        FeatureBank.load(tmp_path / "text.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(ValueError, match="schema_version is None"):
        FeatureBank.load(tmp_path / "empty.h5")
    with pytest.raises(ValueError, match="no embedded bank 'pcan'"):
        load_bank("pcan")


@pytest.mark.parametrize("counts", [(2048, 2048), (1024,) * 4, (13, 13), (9, 30), (1, 20)])
def test_batches_cover_the_pool_in_centroid_order(counts: tuple[int, ...]) -> None:
    bank = pool(counts)
    batches = bank.batches
    assert len(batches) == 8 and sorted(np.concatenate(batches).tolist()) == list(
        range(sum(counts))
    )
    assert max(map(len, batches)) - min(map(len, batches)) <= len(counts)
    if sum(counts) == 4096:
        assert {len(b) for b in batches} == {512}
    for label, count in enumerate(counts):
        parts = [b[bank.candidates.labels[b] == label] for b in batches]
        assert {len(p) for p in parts} <= {count // 8, -(-count // 8)}
        distances = bank.centroid_distances[np.concatenate(parts)]
        assert (np.diff(distances) >= 0).all()
    for batch in batches:
        assert (np.diff(bank.candidates.labels[batch]) >= 0).all()  # class after class


def test_centroid_distance_by_hand() -> None:
    features = np.array([[1, 0], [3, 0], [0, 2], [0, 4]], np.float32)
    candidates = np.array([[5, 0], [0, 1], [1, 1], [0, -3]], np.float32)
    real = Dataset(features, np.array([0, 0, 1, 1]))
    bank = FeatureBank(real, real, real, Dataset(candidates, np.array([0, 0, 1, 1])), ["a", "b"])
    assert bank.centroid_distances == pytest.approx([0, 1, 1 - np.sqrt(0.5), 2], abs=1e-6)


def test_too_many_batches() -> None:
    with pytest.raises(ValueError, match="cannot be cut into 8"):
        pool((3, 3)).make_batches(8)


def test_describe_counts_every_split(toy: FeatureBank) -> None:
    text = toy.describe()
    for expected in (
        "64 candidates",
        "left 12, right 12",
        "512 (left 256",
        "flaw",
        "centroid distance",
    ):
        assert expected in text


def test_embedded_pcam() -> None:
    bank = load_bank("pcam")
    counts = {name: np.bincount(getattr(bank, name).labels).tolist() for name in SPLITS}
    assert counts == {
        "train": [1966, 1378],
        "valid": [460, 308],
        "test": [614, 410],
        "candidates": [2048, 2048],
    }
    assert bank.classes == ("normal", "tumor") and bank.n_features == 512
    real = [getattr(bank, name) for name in ("train", "valid", "test")]
    blobs = [blob for split in real for blob in split.images.blobs]
    assert (
        len({i for split in real for i in split.ids}) == len(set(blobs)) == 3344 + 768 + 1024
    )  # no image in two splits
    for split, side in ((bank.test, 96), (bank.candidates, 48)):
        assert split.images[:3].decode().shape == (3, side, side, 3)
    assert (
        bank.provenance["candidates"]["generator"] == "HistoGAN"
        and "CC0" in bank.provenance["real"]
    )


def test_selection_round_trip(toy: FeatureBank, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    selection = Selection.of(toy, rng.random(64) < 0.5, rng.normal(size=64), "a test")
    selection.save(tmp_path / "selection.csv")
    assert (tmp_path / "selection.csv").read_text().splitlines()[0] == "id,label,selected,score"
    read = Selection.load(tmp_path / "selection.csv")
    assert (read.mask == selection.mask).all() and (read.scores == selection.scores).all()
    assert (
        read.ids == selection.ids
        and read.labels == selection.labels
        and read.count == selection.count
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,b\n", "expected columns"),
        ("id,label,selected,score\na,b,yes,1\n", "line 2"),
        ("id,label,selected,score\na,b,1,x\n", "not a number"),
        ("id,label,selected,score\na,b,1\n", "not a number"),
    ],
)
def test_selection_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Selection.load(tmp_path / "s.csv")


def test_selection_of_another_pool(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match=r"must both be \(64,\)"):
        Selection.of(toy, np.zeros(5, bool), np.zeros(5), "x")


def test_half_precision_where_it_loses_nothing(toy: FeatureBank, tmp_path: Path) -> None:
    toy.save(tmp_path / "half.h5", half=True)
    half = FeatureBank.load(tmp_path / "half.h5")
    half.save(tmp_path / "again.h5")
    toy.save(tmp_path / "single.h5")
    with h5py.File(tmp_path / "again.h5") as again, h5py.File(tmp_path / "single.h5") as single:
        assert (
            again["train/features"].dtype == np.float16
            and single["train/features"].dtype == np.float32
        )
    assert (FeatureBank.load(tmp_path / "again.h5").train.features == half.train.features).all()


def test_subset_keeps_what_is_known_of_each_picture(toy: FeatureBank) -> None:
    groups = tuple(f"patient-{i % 5}" for i in range(64))
    split = replace(
        toy.candidates, groups=groups, images=EncodedImages.encode(toy.candidates.images)
    )
    mask = np.arange(64) % 3 == 0
    for index in (mask, np.flatnonzero(mask)[::-1]):
        part, positions = (
            split.subset(index),
            np.flatnonzero(mask) if index.dtype == bool else index,
        )
        assert (part.features == split.features[positions]).all() and (
            part.labels == split.labels[positions]
        ).all()
        assert part.ids == tuple(split.ids[i] for i in positions) and part.groups == tuple(
            groups[i] for i in positions
        )
        assert (
            part.images.blobs == tuple(split.images.blobs[i] for i in positions)
            and (part.flaw == split.flaw[positions]).all()
        )
    bare = Dataset(split.features, split.labels).subset(mask)
    assert bare.ids is bare.groups is bare.images is bare.flaw is None and len(bare) == 22


def test_warnings(toy: FeatureBank) -> None:
    assert not toy.warnings() and "warning" not in toy.describe()
    few = replace(toy, train=toy.train.subset(np.arange(15)))
    assert few.warnings() == [
        "train has 3 pictures of class right; figures of that class mean little below 10"
    ]
    leak = np.concatenate([toy.candidates.features[:-2], toy.test.features[:2]])
    leaking = replace(toy, candidates=replace(toy.candidates, features=leak))
    assert leaking.warnings() == [
        "candidates and test share 2 pictures; scores on test are too good"
    ]
    patients = {
        name: tuple(f"{name if i else 'both'}-{i}" for i in range(len(getattr(toy, name))))
        for name in ("train", "test")
    }
    shared = replace(
        toy,
        **{name: replace(getattr(toy, name), groups=groups) for name, groups in patients.items()},
    )
    assert shared.warnings() == [
        "train and test share 1 patients or slides, e.g. both-0; split by group"
    ]
    assert "warning: train and test share" in shared.describe()


@pytest.mark.parametrize("encoded", [False, True])
def test_pictures_in_two_splits_are_seen_whatever_their_features(
    toy: FeatureBank, encoded: bool
) -> None:
    """The images themselves are compared, not what a network sees of them."""
    images = {
        name: EncodedImages.encode(split.images) if encoded else split.images
        for name, split in toy.splits.items()
    }
    banked = replace(
        toy, **{name: replace(split, images=images[name]) for name, split in toy.splits.items()}
    )
    assert not banked.warnings()
    mixed = (
        (*images["train"].blobs[:3], *images["valid"].blobs[3:])
        if encoded
        else np.concatenate([images["train"][:3], images["valid"][3:]])
    )
    leaking = replace(
        banked, valid=replace(banked.valid, images=EncodedImages(mixed) if encoded else mixed)
    )
    assert leaking.warnings() == ["train and valid share 3 pictures; scores on valid are too good"]


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_every_patient_has_a_name(toy: FeatureBank, missing: object) -> None:
    """Those without would be one patient."""
    groups = [missing if i == 3 else f"p{i}" for i in range(len(toy.valid))]
    with pytest.raises(
        ValueError,
        match=r"valid/groups has 1 entries without a name \(first: 3\); name each, or give groups=None",
    ):
        replace(toy, valid=replace(toy.valid, groups=groups))


def test_a_selection_that_a_spreadsheet_saved(toy: FeatureBank, tmp_path: Path) -> None:
    selection = Selection.of(toy, toy.candidates.flaw == 0, np.arange(64.0), "mine")
    selection.save(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "s.csv").read_bytes())
    assert (Selection.load(tmp_path / "s.csv").mask == selection.mask).all()


def test_the_shape_of_pictures_is_part_of_their_name(toy: FeatureBank) -> None:
    images = np.arange(2 * 4 * 8 * 3, dtype=np.uint8).reshape(2, 4, 8, 3)
    assert images_digest(images, np.zeros(2, int)) != images_digest(
        images.reshape(2, 8, 4, 3), np.zeros(2, int)
    )


def test_a_sealed_bank_is_a_bank(toy: FeatureBank, tmp_path: Path) -> None:
    sealed = toy.sealed
    assert sealed.test is None and toy.test is not None and sealed.sealed is sealed
    assert (
        sealed.train is toy.train
        and sealed.digest == toy.digest
        and set(sealed.splits) == {"train", "valid", "candidates"}
    )
    assert "test " not in sealed.describe() and not any(
        "test" in warning for warning in sealed.warnings()
    )
    sealed.save(tmp_path / "sealed.h5")
    loaded = FeatureBank.load(tmp_path / "sealed.h5")
    assert loaded.test is None and loaded.digest == toy.digest
    assert replace(toy, train=toy.train.subset(np.arange(20))).digest != toy.digest


def test_atypicality_is_the_mahalanobis_distance(toy: FeatureBank) -> None:
    """Against scipy's, on statistics that are far from singular."""
    rng = np.random.default_rng(0)
    real, pool = rng.normal(size=(24, 3)) @ rng.normal(size=(3, 3)), rng.normal(size=(64, 3))
    bank = replace(
        toy,
        train=replace(toy.train, image_stats=real),
        candidates=replace(toy.candidates, image_stats=pool),
    )
    inverse = np.linalg.inv(np.cov(real.T, bias=True))
    expected = [mahalanobis(row, real.mean(0), inverse) for row in pool]
    assert bank.atypicality == pytest.approx(
        expected, rel=0.02
    )  # a little is added to the variance
    assert toy.atypicality is None  # not known
    few = replace(bank, train=bank.train.subset(np.r_[0:3, 12:15]))
    assert few.atypicality is None  # too few to know their spread
    constant = np.column_stack([real, np.ones(24)]), np.column_stack([pool, np.full(64, 2.0)])
    odd = replace(
        toy,
        train=replace(toy.train, image_stats=constant[0]),
        candidates=replace(toy.candidates, image_stats=constant[1]),
    )
    assert np.isfinite(odd.atypicality).all()
    with pytest.raises(ValueError, match="candidates/appearance is .* not finite"):
        replace(toy, candidates=replace(toy.candidates, image_stats=np.full((64, 3), np.nan)))


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.1, 1000.0), (1e6, 0.0), (1e-9, 0.0)])
def test_other_units_share_no_pictures(toy: FeatureBank, factor: float, shift: float) -> None:
    moved = {
        name: replace(split, features=split.features * factor + shift)
        for name, split in toy.splits.items()
    }
    assert not [w for w in replace(toy, **moved).warnings() if "share" in w]
    moved["valid"] = moved["train"]
    assert [
        w
        for w in replace(toy, **moved).warnings()
        if w.startswith("train and valid share 24 pictures")
    ]


def test_masks_and_appearances_that_do_not_fit(toy: FeatureBank) -> None:
    with pytest.raises(
        ValueError, match=r"a mask of 64 images must be bool \(64,\), got \(10,\)"
    ):
        toy.candidates.subset(np.ones(10, bool))
    looks = {
        name: replace(toy.splits[name], image_stats=np.zeros((len(toy.splits[name]), w)))
        for name, w in (("train", 2), ("candidates", 3))
    }
    with pytest.raises(ValueError, match="appearances differ in length"):
        replace(toy, **looks)


def test_provenance_may_hold_numpys_numbers(toy: FeatureBank, tmp_path: Path) -> None:
    replace(toy, provenance={"n": np.int64(3), "share": np.float32(0.5)}).save(tmp_path / "bank.h5")
    assert FeatureBank.load(tmp_path / "bank.h5").provenance == {"n": 3, "share": 0.5}
    with pytest.raises(TypeError, match="provenance holds a Path|provenance holds a PosixPath"):
        replace(toy, provenance={"from": tmp_path}).save(tmp_path / "bank.h5")
    assert FeatureBank.load(tmp_path / "bank.h5").provenance == {"n": 3, "share": 0.5}
