"""The linear probe as a whole; the regression inside it is in test_ridge.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from synthselect_env import Dataset, FeatureBank
from synthselect_env.evaluators import LinearProbeEvaluator
from synthselect_env.evaluators.linear_probe import fit_temperature


def draw(bank: FeatureBank, k: int, seed: int = 0) -> np.ndarray:
    """Draw k selections, the first empty, the last nearly the whole pool."""
    density = np.linspace(0, 1, k)[:, None]
    return np.random.default_rng(seed).random((k, len(bank.candidates))) < density


def test_knows_good_candidates_from_bad(toy: FeatureBank) -> None:
    sound = toy.candidates.flaw == 0
    selections = np.stack([np.zeros_like(sound), sound, ~sound])
    metrics = LinearProbeEvaluator(toy).evaluate(selections, 0)
    none, good, bad = metrics.log_likelihood
    assert good > none > bad
    assert metrics.accuracy[1] > metrics.accuracy[2]


def test_credit_adds_up_to_refits_without_each(toy: FeatureBank) -> None:
    probe = LinearProbeEvaluator(toy, n_components=4, ridge=1.0, device="cpu")
    everything, all_but_one = np.ones((1, 64), bool), ~np.eye(64, dtype=bool)
    full = probe.evaluate(everything, 0).log_likelihood
    lost = full - probe.evaluate(all_but_one, 0).log_likelihood
    with_it = probe.credit(everything, 0)[0]
    without_it = probe.credit(all_but_one, 0).diagonal()
    assert np.corrcoef(with_it, lost)[0, 1] > 0.95
    # The mean slope of both ends is the difference, to third order.
    assert (with_it + without_it) / 2 == pytest.approx(lost, abs=0.1 * np.abs(lost).max())


def test_metrics_do_not_depend_on_earlier_calls(toy: FeatureBank) -> None:
    """Sums are kept between calls, but are exact: not a bit differs from a fresh start."""
    probe = LinearProbeEvaluator(toy, device="cpu")
    masks = draw(toy, 6)
    for seed in range(4):  # an episode, in which more and more is kept
        masks = masks | draw(toy, 6, seed)
        kept = probe.evaluate(masks, 0)
        fresh = LinearProbeEvaluator(toy, device="cpu").evaluate(masks, 0)
        assert (kept.log_likelihood == fresh.log_likelihood).all()


def test_large_pools_are_scored_in_chunks(
    toy: FeatureBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    masks = draw(toy, 4)
    whole = LinearProbeEvaluator(toy, device="cpu")
    monkeypatch.setattr("synthselect_env.evaluators.ridge.TABLE_BYTES", 0)
    for module in ("ridge", "linear_probe"):
        monkeypatch.setattr(f"synthselect_env.evaluators.{module}.CHUNK_SIZE", 10)
    features = np.memmap(tmp_path / "pool", np.float32, "w+", shape=toy.candidates.features.shape)
    features[:] = toy.candidates.features
    mapped = replace(toy, candidates=replace(toy.candidates, features=features))
    assert np.shares_memory(mapped.candidates.features, features)
    chunked = LinearProbeEvaluator(mapped, device="cpu")
    expected = whole.evaluate(masks, 0).brier
    assert chunked.evaluate(masks, 0).brier == pytest.approx(expected, abs=1e-12)
    assert chunked.credit(masks, 0) == pytest.approx(whole.credit(masks, 0), abs=1e-12)


def test_fewer_images_than_components(toy: FeatureBank) -> None:
    """Centred, four images span three axes. What a fourth one says of candidates is noise."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, split in toy.splits.items():
        wide = np.pad(split.features, ((0, 0), (0, 40)))
        noise = rng.normal(0, 0.1, wide.shape).astype(np.float32)
        splits[name] = replace(split, features=wide + noise)
    splits["train"] = splits["train"].subset([0, 1, 12, 13])
    assert LinearProbeEvaluator(replace(toy, **splits)).n_components == 3


def test_features_of_any_layout(toy: FeatureBank) -> None:
    masks = draw(toy, 2)
    view = Dataset(toy.valid.features[::-1], toy.valid.labels[::-1])
    copied = Dataset(view.features.copy(), view.labels.copy())
    by_view, by_copy = (
        LinearProbeEvaluator(replace(toy, valid=valid), device="cpu").evaluate(masks, 0)
        for valid in (view, copied)
    )
    assert (by_view.log_likelihood == by_copy.log_likelihood).all()


class TestTemperature:
    def scores(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw scores (5, 3, 300) of very different scales, and labels that they tell of."""
        rng = np.random.default_rng(0)
        scale = np.array([0.1, 0.5, 1, 3, 10])[:, None, None]
        scores = torch.from_numpy(rng.normal(size=(5, 3, 300)) * scale)
        labels = torch.from_numpy(rng.integers(3, size=300))
        scores[:, labels, torch.arange(300)] += 0.5 * scores.std((1, 2))[:, None]
        return scores, labels

    def test_is_the_best_on_a_grid(self) -> None:
        scores, labels = self.scores()
        factors = torch.from_numpy(np.geomspace(0.02, 50, 400))
        fitted = fit_temperature(scores, labels)
        for own, best in zip(scores, fitted):
            tried = torch.cat([factors, best[None]])[:, None, None] * own  # (401, c, n)
            log_p = tried.log_softmax(1)[:, labels, torch.arange(300)].mean(1)
            assert log_p[-1] >= log_p[:-1].max() - 1e-6

    def test_is_found_from_afar_and_alone(self) -> None:
        """Few real images may point the wrong way, and are then no start for the others."""
        scores, labels = self.scores()
        scores = torch.cat([scores, -scores])  # the second half is best at the least factor
        at_best = fit_temperature(scores, labels, 4.0)
        for start in (0.01, 0.0156, 1000.0):
            assert torch.allclose(fit_temperature(scores, labels, start), at_best, rtol=1e-6)
        alone = torch.cat([fit_temperature(one[None], labels, 4.0) for one in scores])
        assert torch.equal(alone, at_best)


def test_errors(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match="ridge above 0"):
        LinearProbeEvaluator(toy, ridge=0)
    constant = replace(toy, train=replace(toy.train, features=np.ones_like(toy.train.features)))
    with pytest.raises(ValueError, match="train/features are all the same"):
        LinearProbeEvaluator(constant)
    # Sums are rounded to what the farthest image leaves: nothing would be seen of the others.
    features = toy.candidates.features.copy()
    features[7] *= 1e7
    outlier = replace(toy, candidates=replace(toy.candidates, features=features))
    with pytest.raises(ValueError, match=r"candidates/features, row 7 lies .* drop it"):
        LinearProbeEvaluator(outlier)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_agrees_with_cpu(toy: FeatureBank) -> None:
    masks = draw(toy, 5)
    gpu, cpu = (
        LinearProbeEvaluator(toy, device=device).evaluate(masks, 0) for device in ("cuda", "cpu")
    )
    assert gpu.log_likelihood == pytest.approx(cpu.log_likelihood, abs=1e-9)
