from __future__ import annotations

import numpy as np
import pytest

from synthselect_env import Dataset, FeatureBank


def random_bank(candidates_per_class: tuple[int, ...]) -> FeatureBank:
    rng = np.random.default_rng(0)

    def split(counts: tuple[int, ...]) -> Dataset:
        labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        return Dataset(rng.normal(size=(len(labels), 5)).astype(np.float32), labels)

    real = (6,) * len(candidates_per_class)
    classes = [f"class {i}" for i in range(len(real))]
    return FeatureBank(split(real), split(real), split(real), split(candidates_per_class), classes)


@pytest.mark.parametrize("counts", [(2048, 2048), (1024,) * 4, (13, 13), (9, 30), (1, 20)])
def test_batches_cover_the_pool_in_centroid_order(counts: tuple[int, ...]) -> None:
    bank = random_bank(counts)
    batches, labels = bank.batches, bank.candidates.labels
    assert len(batches) == 8
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(sum(counts)))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= len(counts)
    if sum(counts) == 4096:
        assert set(sizes) == {512}
    for label, count in enumerate(counts):
        parts = [batch[labels[batch] == label] for batch in batches]
        assert {len(part) for part in parts} <= {count // 8, -(-count // 8)}
        assert (np.diff(bank.centroid_distances[np.concatenate(parts)]) >= 0).all()
    for batch in batches:
        assert (np.diff(labels[batch]) >= 0).all()  # class after class


@pytest.mark.parametrize("n_batches", [0, 8])
def test_batches_are_never_empty(n_batches: int) -> None:
    with pytest.raises(ValueError, match=f"FeatureBank: 6 .* cannot be cut into {n_batches}"):
        random_bank((3, 3)).make_batches(n_batches)
