from __future__ import annotations

import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from synthselect_env import FeatureBank, Split
from synthselect_env.classifier import TrainingConfig
from synthselect_env.embedded import toy_bank
from synthselect_env.evaluators import EVALUATORS, LinearProbeEvaluator, RetrainEvaluator, make_evaluator
from synthselect_env.evaluators.linear_probe import fit_temperature
from synthselect_env.metrics import METRICS

TINY = TrainingConfig("resnet18", size=(16, 16), epochs=6, steps_per_epoch=1, batch_size=16)


def selections(bank: FeatureBank, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((k, len(bank.candidates))) < np.linspace(0, 1, k)[:, None]


def evaluator(name: str, bank: FeatureBank):
    return (
        LinearProbeEvaluator(bank, n_components=4, device="cpu")
        if name == "linear_probe"
        else RetrainEvaluator(bank, "resnet18", TINY, device="cpu")
    )


@pytest.mark.parametrize("ridge", [0.01, 0.5])
def test_probe_is_scikit_learns_ridge(toy: FeatureBank, ridge: float) -> None:
    p = 5
    probe = LinearProbeEvaluator(toy, n_components=p, ridge=ridge, device="cpu")
    masks = selections(toy, 4)
    x0 = toy.train.features.astype(np.float64)
    mean = x0.mean(0)
    axes = np.linalg.svd(x0 - mean, full_matrices=False)[2][:p].T
    axes = axes / np.sqrt((((x0 - mean) @ axes) ** 2).mean())
    for mask, ours in zip(masks, probe._fit(torch.from_numpy(masks).double())):
        x = (np.concatenate([x0, toy.candidates.features[mask]]) - mean) @ axes
        y = np.eye(2)[np.concatenate([toy.train.labels, toy.candidates.labels[mask]])]
        oracle = Ridge(alpha=ridge * len(x)).fit(x, y)
        assert ours[:-1].numpy() == pytest.approx(oracle.coef_.T, abs=1e-9)
        assert ours[-1].numpy() == pytest.approx(oracle.intercept_, abs=1e-9)


def test_temperature_is_the_best_on_a_grid() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(5, 300, 3)) * np.array([0.1, 0.5, 1, 3, 10])[:, None, None])
    labels = torch.from_numpy(rng.integers(3, size=300))
    scores[:, torch.arange(300), labels] += 0.5 * scores.std((1, 2))[:, None]
    fitted = fit_temperature(scores, labels)

    def log_likelihood(i: int, t: float) -> float:
        return torch.log_softmax(t * scores[i], 1)[torch.arange(300), labels].mean().item()

    for i, t in enumerate(fitted.tolist()):
        grid = np.geomspace(0.02, 50, 400)
        assert log_likelihood(i, t) >= max(log_likelihood(i, g) for g in grid) - 1e-6


@pytest.mark.parametrize("name", EVALUATORS)
class TestContract:
    def test_many_at_once_are_each_alone(self, toy: FeatureBank, name: str) -> None:
        masks = selections(toy, 3)
        together = evaluator(name, toy).evaluate(masks, seed=5)
        for i in range(3):
            alone = evaluator(name, toy).evaluate(masks[i : i + 1], seed=5)
            for metric in METRICS:
                assert getattr(together, metric)[i] == pytest.approx(getattr(alone, metric)[0], abs=1e-9)

    def test_pickles(self, toy: FeatureBank, name: str) -> None:
        original, masks = evaluator(name, toy), selections(toy, 2)
        before = original.evaluate(masks, seed=1)
        after = pickle.loads(pickle.dumps(original)).evaluate(masks, seed=1)
        assert (before.log_likelihood == after.log_likelihood).all()

    def test_scores_the_splits_it_is_given(self, toy: FeatureBank, name: str) -> None:
        ours, masks = evaluator(name, toy), selections(toy, 2)
        valid, test = ours.evaluate_on(masks, 0, toy.valid, toy.test)
        assert (valid.accuracy == ours.evaluate(masks, 0).accuracy).all()
        assert np.allclose(valid.accuracy * 128 % 1, 0) and np.allclose(test.accuracy * 512 % 1, 0)
        swapped = evaluator(name, replace(toy, valid=toy.test, test=toy.valid)).evaluate(masks, 0)
        assert (swapped.accuracy == test.accuracy).all()

    def test_refuses_other_shapes(self, toy: FeatureBank, name: str) -> None:
        for wrong in (np.zeros((1, 5), bool), np.zeros(64, bool), np.zeros((1, 64))):
            with pytest.raises(ValueError, match=r"selections must be bool \(k, 64\)"):
                evaluator(name, toy).evaluate(wrong, 0)

    def test_leaves_global_generators_alone(self, toy: FeatureBank, name: str) -> None:
        before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        evaluator(name, toy).evaluate(selections(toy, 1), 0)
        assert torch.equal(before[0], torch.random.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_probe_knows_good_candidates_from_bad(toy: FeatureBank) -> None:
    sound = toy.candidates.flaw == 0
    figures = LinearProbeEvaluator(toy).evaluate(np.stack([np.zeros_like(sound), sound, ~sound]), 0)
    assert figures.log_likelihood[1] > figures.log_likelihood[0] > figures.log_likelihood[2]
    assert figures.accuracy[1] > figures.accuracy[2]


def test_retraining_keeps_the_last_five_epochs(toy: FeatureBank) -> None:
    seen: list[tuple[int, int, float]] = []
    figures = RetrainEvaluator(toy, "resnet18", TINY, device="cpu", on_epoch=lambda k, e, m: seen.append((k, e, m["accuracy"]))).evaluate(
        selections(toy, 2), 0
    )
    assert figures.epochs["accuracy"].shape == (2, 5)
    assert [(k, e) for k, e, _ in seen] == [(k, e) for k in (0, 1) for e in range(1, 7)]
    assert figures.epochs["accuracy"][1].tolist() == [a for k, e, a in seen if k == 1][1:]
    assert figures.accuracy.tolist() == figures.epochs["accuracy"][:, -1].tolist()


def test_every_split_is_scored_with_its_own_pictures(toy: FeatureBank) -> None:
    ours, mask = RetrainEvaluator(toy, config=asdict(TINY), device="cpu"), np.zeros((1, 64), bool)
    alone = []
    for part in (slice(0, 40), slice(200, 240), slice(400, 440)):
        split = Split(toy.test.features[part], toy.test.labels[part], images=toy.test.images[part])
        alone.append(ours.evaluate_on(mask, 0, split)[0].log_likelihood[0])
        del split  # its address is free for the next one
    fresh = [
        Split(toy.test.features[p], toy.test.labels[p], images=toy.test.images[p]) for p in (slice(0, 40), slice(200, 240), slice(400, 440))
    ]
    assert alone == [e.log_likelihood[0] for e in ours.evaluate_on(mask, 0, *fresh)]


def test_retraining_needs_pictures(toy: FeatureBank) -> None:
    blind = replace(toy, candidates=replace(toy.candidates, images=None))
    with pytest.raises(ValueError, match="candidates/images is missing"):
        RetrainEvaluator(blind)


def test_names_and_errors(toy: FeatureBank, small: FeatureBank) -> None:
    assert isinstance(make_evaluator("resnet34", toy), RetrainEvaluator)
    assert make_evaluator("linear_probe", toy, ridge=2.0).ridge == 2.0
    with pytest.raises(ValueError, match="unknown evaluator 'svm'"):
        make_evaluator("svm", toy)
    for other in (small, toy_bank(seed=9)):
        with pytest.raises(ValueError, match="made for another bank"):
            make_evaluator(LinearProbeEvaluator(toy), other)
    copy = LinearProbeEvaluator(toy_bank())
    assert make_evaluator(copy, toy) is copy  # the same bank, read twice
    with pytest.raises(ValueError, match="ridge: arguments go with an evaluator's name"):
        make_evaluator(LinearProbeEvaluator(toy), toy, ridge=2.0)
    constant = replace(toy, train=replace(toy.train, features=np.ones_like(toy.train.features)))
    with pytest.raises(ValueError, match="train/features are all the same"):
        LinearProbeEvaluator(constant)
    with pytest.raises(ValueError, match="ridge above 0"):
        LinearProbeEvaluator(toy, ridge=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_probe_on_cuda_agrees_with_cpu(toy: FeatureBank) -> None:
    masks = selections(toy, 5)
    gpu, cpu = (LinearProbeEvaluator(toy, device=device).evaluate(masks, 0) for device in ("cuda", "cpu"))
    assert gpu.log_likelihood == pytest.approx(cpu.log_likelihood, abs=1e-9)
