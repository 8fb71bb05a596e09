from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from synthselect_env import FeatureBank, Dataset
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import (
    EVALUATORS,
    LinearProbeEvaluator,
    QuickRetrainEvaluator,
    RetrainEvaluator,
    make_evaluator,
)
from synthselect_env.evaluators.linear_probe import fit_temperature
from synthselect_env.evaluators.ridge import Design, RidgeHead
from synthselect_env.metrics import METRICS
from synthselect_env.training.classifier import QUICK, TrainingConfig
from synthselect_env.training.device import (
    available_cores,
    default_workers,
    has_bfloat16,
    processor_flags,
)

TINY = TrainingConfig("resnet18", size=(16, 16), epochs=6, steps_per_epoch=1, batch_size=16)


def selections(bank: FeatureBank, k: int, seed: int = 0) -> np.ndarray:
    return (
        np.random.default_rng(seed).random((k, len(bank.candidates)))
        < np.linspace(0, 1, k)[:, None]
    )


def evaluator(name: str, bank: FeatureBank):
    return (
        LinearProbeEvaluator(bank, n_components=4, device="cpu")
        if name == "linear_probe"
        else RetrainEvaluator(bank, "resnet18", TINY, device="cpu")
    )


def objective(w: np.ndarray, x: np.ndarray, y: np.ndarray, s: np.ndarray, penalty: float) -> float:
    """What the head minimises, written down once more; x without the column of ones."""
    scores = x @ w[:-1] + w[-1]
    loss = 0.5 * ((scores - y) ** 2).sum(1)
    return float((s * loss).sum() + penalty / 2 * s.sum() * (w[:-1] ** 2).sum())


@pytest.mark.parametrize("penalty", [0.01, 0.5])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_head_is_the_minimum(penalty: float, n_classes: int) -> None:
    """Beside scikit-learn's ridge, and a general-purpose minimiser."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 3)), np.arange(60) % n_classes
    x[:, 0] += labels
    y = np.eye(n_classes)[labels]
    design = Design(torch.from_numpy(np.column_stack([x, np.ones(60)])), torch.from_numpy(y))
    real, pool = (Design(design.x[part], design.y[part]) for part in (slice(0, 20), slice(20, 60)))
    masks = rng.random((3, 40)) < 0.5
    for mask, ours in zip(
        masks, RidgeHead(real, pool, penalty).fit(torch.from_numpy(masks)).numpy()
    ):
        s = np.concatenate([np.ones(20), mask])
        start = np.zeros(4 * n_classes)
        best = minimize(
            lambda w, s=s: objective(w.reshape(4, -1), x, y, s, penalty),
            start,
            method="BFGS",
            options={"gtol": 1e-7},
        )
        assert ours == pytest.approx(best.x.reshape(4, -1), abs=2e-5)
        oracle = Ridge(alpha=penalty * s.sum()).fit(x, y, sample_weight=s)
        assert ours == pytest.approx(np.vstack([oracle.coef_.T, oracle.intercept_]), abs=1e-10)


class TestCredit:
    def test_is_the_derivative(self, toy: FeatureBank) -> None:
        """Against finite differences of a fit with weights, by a general-purpose minimiser."""
        probe = LinearProbeEvaluator(toy, n_components=3, ridge=0.2, device="cpu")
        mask = selections(toy, 3)[1]
        credit = probe.credit(mask[None], 0)[0]
        real, pool, valid = (
            probe.components(split.features).numpy()
            for split in (toy.train, toy.candidates, toy.valid)
        )
        x, y = (
            np.concatenate([real, pool])[:, :-1],
            np.eye(2)[np.concatenate([toy.train.labels, toy.candidates.labels])],
        )

        def likelihood(s: np.ndarray) -> float:
            def loss(w: np.ndarray) -> float:
                return objective(w.reshape(4, 2), x, y, s, 0.2)

            w = minimize(loss, np.zeros(8), method="BFGS", options={"gtol": 1e-9}).x.reshape(4, 2)
            scores = torch.from_numpy((valid @ w).T)[None]
            labels = torch.from_numpy(toy.valid.labels)
            p = (fit_temperature(scores, labels, steps=30)[:, None, None] * scores).log_softmax(1)
            return p[0, labels, torch.arange(len(labels))].mean().item()

        for i in (*np.flatnonzero(mask)[:2], *np.flatnonzero(~mask)[:2]):
            step = np.zeros(len(x))
            step[len(real) + i] = 0.05
            s = np.concatenate([np.ones(len(real)), mask])
            slope = (likelihood(s + step) - likelihood(s - step)) / 0.1
            assert credit[i] == pytest.approx(slope, rel=0.02, abs=2e-7)

    def test_adds_up_to_refits_without_each(self, toy: FeatureBank) -> None:
        probe = LinearProbeEvaluator(toy, n_components=4, ridge=1.0, device="cpu")
        everything = np.ones((1, 64), bool)
        without = probe.evaluate(~np.eye(64, dtype=bool), 0).log_likelihood
        lost = probe.evaluate(everything, 0).log_likelihood - without
        with_it, without_it = (
            probe.credit(everything, 0)[0],
            probe.credit(~np.eye(64, dtype=bool), 0).diagonal(),
        )
        assert np.corrcoef(with_it, lost)[0, 1] > 0.95
        # the slope changes between "without" and "with": its mean at both ends is the difference, to third order
        assert (with_it + without_it) / 2 == pytest.approx(lost, abs=0.1 * np.abs(lost).max())


def test_figures_do_not_depend_on_what_was_asked_before(toy: FeatureBank) -> None:
    """Sums are kept between calls, but are exact: not a bit differs from a fresh start, alone or with others."""
    probe = LinearProbeEvaluator(toy, device="cpu")
    masks = selections(toy, 6)
    for shift in range(4):  # an episode, as the environment plays it: more and more is kept
        masks = masks | selections(toy, 6, seed=shift)
        kept = probe.evaluate(masks, 0)
        fresh = LinearProbeEvaluator(toy, device="cpu").evaluate(masks, 0)
        assert (kept.log_likelihood == fresh.log_likelihood).all()
    sums = probe._head._sums(torch.from_numpy(masks))
    for i in range(6):
        assert torch.equal(probe._head._sums(torch.from_numpy(masks[i : i + 1]))[0], sums[i])


def test_large_pools_are_scored_in_chunks(
    toy: FeatureBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    masks = selections(toy, 4)
    whole = LinearProbeEvaluator(toy, device="cpu")
    monkeypatch.setattr("synthselect_env.evaluators.ridge.TABLE_BYTES", 0)
    monkeypatch.setattr("synthselect_env.evaluators.ridge.CHUNK", 10)
    features = np.memmap(tmp_path / "pool", np.float32, "w+", shape=toy.candidates.features.shape)
    features[:] = toy.candidates.features
    mapped = replace(toy, candidates=replace(toy.candidates, features=features))
    assert np.shares_memory(mapped.candidates.features, features)
    chunked = LinearProbeEvaluator(mapped, device="cpu")
    assert chunked._head._table is None
    assert chunked.evaluate(masks, 0).brier == pytest.approx(
        whole.evaluate(masks, 0).brier, abs=1e-12
    )
    assert chunked.credit(masks, 0) == pytest.approx(whole.credit(masks, 0), abs=1e-12)


def test_temperature_is_the_best_on_a_grid() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(
        rng.normal(size=(5, 3, 300)) * np.array([0.1, 0.5, 1, 3, 10])[:, None, None]
    )
    labels = torch.from_numpy(rng.integers(3, size=300))
    scores[:, labels, torch.arange(300)] += 0.5 * scores.std((1, 2))[:, None]
    fitted = fit_temperature(scores, labels)

    def log_likelihood(i: int, t: float) -> float:
        return torch.log_softmax(t * scores[i], 0)[labels, torch.arange(300)].mean().item()

    for i, t in enumerate(fitted.tolist()):
        grid = np.geomspace(0.02, 50, 400)
        assert log_likelihood(i, t) >= max(log_likelihood(i, g) for g in grid) - 1e-6


@pytest.mark.parametrize(
    "name", [name for name in EVALUATORS if EVALUATORS[name].can_score_any_split]
)
class TestContract:
    def test_many_at_once_are_each_alone(self, toy: FeatureBank, name: str) -> None:
        masks = selections(toy, 3)
        together = evaluator(name, toy).evaluate(masks, seed=5)
        for i in range(3):
            alone = evaluator(name, toy).evaluate(masks[i : i + 1], seed=5)
            for metric in METRICS:
                assert getattr(together, metric)[i] == pytest.approx(
                    getattr(alone, metric)[0], abs=1e-9
                )

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

    def test_predictions_are_behind_the_figures(self, toy: FeatureBank, name: str) -> None:
        """By scikit-learn's metrics, which know nothing of this project's."""
        ours, masks = evaluator(name, toy), selections(toy, 2)
        splits = (toy.valid, toy.test, toy.candidates)
        for split, predicted, figures in zip(
            splits, ours.predict_on(masks, 3, *splits), ours.evaluate_on(masks, 3, *splits)
        ):
            assert predicted.shape == (2, len(split), 2) and predicted.dtype == np.float32
            assert np.exp(predicted).sum(2) == pytest.approx(1, abs=1e-5)
            for k in range(2):
                p = np.exp(predicted[k].astype(float))
                assert figures.accuracy[k] == pytest.approx(
                    accuracy_score(split.labels, p.argmax(1))
                )
                assert figures.log_likelihood[k] == pytest.approx(
                    -log_loss(split.labels, p / p.sum(1, keepdims=True)), rel=1e-4
                )
                assert figures.auc[k] == pytest.approx(
                    roc_auc_score(split.labels, p[:, 1]), abs=1e-3
                )

    def test_keeps_no_test_split(self, toy: FeatureBank, name: str) -> None:
        assert evaluator(name, toy).bank.test is None

    def test_refuses_other_shapes(self, toy: FeatureBank, name: str) -> None:
        for wrong in (
            np.zeros((1, 5), bool),
            np.zeros(64, bool),
            np.zeros((1, 64)),
            np.zeros((0, 64), bool),
        ):
            with pytest.raises(
                ValueError, match=r"selections must be bool \(k, 64\), k at least 1"
            ):
                evaluator(name, toy).evaluate(wrong, 0)

    def test_leaves_global_generators_alone(self, toy: FeatureBank, name: str) -> None:
        before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        evaluator(name, toy).evaluate(selections(toy, 1), 0)
        assert (
            torch.equal(before[0], torch.random.get_rng_state())
            and (before[1] == np.random.get_state()[1]).all()
        )


def test_fewer_pictures_than_components(toy: FeatureBank) -> None:
    """Centred, four images span three axes; what an arbitrary fourth one says of candidates is noise."""
    rows = np.array([0, 1, 12, 13])
    wide = {
        name: np.pad(getattr(toy, name).features, ((0, 0), (0, 40)))
        for name in ("train", "valid", "test", "candidates")
    }
    rng = np.random.default_rng(0)
    wide = {
        name: features + rng.normal(0, 0.1, features.shape).astype(np.float32)
        for name, features in wide.items()
    }
    few = replace(
        toy,
        **{name: replace(getattr(toy, name), features=features) for name, features in wide.items()},
    )
    few = replace(few, train=Dataset(few.train.features[rows], few.train.labels[rows]))
    assert LinearProbeEvaluator(few).n_components == 3


def test_masks_in_any_memory_layout(toy: FeatureBank) -> None:
    m, probe = selections(toy, 3), LinearProbeEvaluator(toy, device="cpu")
    assert probe.evaluate(m[::-1], 0).brier == pytest.approx(
        probe.evaluate(m, 0).brier[::-1], abs=1e-12
    )


def test_probe_knows_good_candidates_from_bad(toy: FeatureBank) -> None:
    sound = toy.candidates.flaw == 0
    figures = LinearProbeEvaluator(toy).evaluate(np.stack([np.zeros_like(sound), sound, ~sound]), 0)
    assert figures.log_likelihood[1] > figures.log_likelihood[0] > figures.log_likelihood[2]
    assert figures.accuracy[1] > figures.accuracy[2]


def test_retraining_keeps_the_last_five_epochs(toy: FeatureBank) -> None:
    seen: list[tuple[int, int, float]] = []
    figures = RetrainEvaluator(
        toy,
        "resnet18",
        TINY,
        device="cpu",
        on_epoch=lambda k, e, m: seen.append((k, e, m.get("accuracy"))),
    ).evaluate(selections(toy, 2), 0)
    assert figures.epochs["accuracy"].shape == (2, 5)
    assert [(k, e) for k, e, _ in seen] == [(k, e) for k in (0, 1) for e in range(1, 7)]
    assert figures.epochs["accuracy"][1].tolist() == [a for k, e, a in seen if k == 1][1:]
    assert figures.accuracy.tolist() == figures.epochs["accuracy"][:, -1].tolist()


@pytest.mark.parametrize("kind", [RetrainEvaluator, QuickRetrainEvaluator])
def test_a_dictionary_says_what_differs_from_the_recipe(
    toy: FeatureBank, kind: type[RetrainEvaluator]
) -> None:
    """One option changes neither the network nor the images' proportions."""
    wide = replace(
        toy,
        **{
            name: replace(
                getattr(toy, name), images=np.zeros((len(getattr(toy, name)), 48, 96, 3), np.uint8)
            )
            for name in toy.splits
        },
    )
    short = min(kind.recipe.size)
    assert kind(wide).config == replace(kind.recipe, size=(short, 2 * short))
    assert kind(wide, config={"augmentation": "none"}).config == replace(
        kind(wide).config, augmentation="none"
    )
    assert kind(wide, config={"size": (8, 8)}).config == replace(kind.recipe, size=(8, 8))


def test_every_split_is_scored_with_its_own_pictures(toy: FeatureBank) -> None:
    ours, mask = RetrainEvaluator(toy, config=asdict(TINY), device="cpu"), np.zeros((1, 64), bool)
    alone = []
    for part in (slice(0, 40), slice(200, 240), slice(400, 440)):
        split = Dataset(
            toy.test.features[part], toy.test.labels[part], images=toy.test.images[part]
        )
        alone.append(ours.evaluate_on(mask, 0, split)[0].log_likelihood[0])
        del split  # its address is free for the next one
    fresh = [
        Dataset(toy.test.features[p], toy.test.labels[p], images=toy.test.images[p])
        for p in (slice(0, 40), slice(200, 240), slice(400, 440))
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
    retrain = RetrainEvaluator(toy, config=TINY, device="cpu")
    seen_otherwise = replace(
        toy,
        **{name: replace(split, features=2 * split.features) for name, split in toy.splits.items()},
    )
    assert (
        make_evaluator(retrain, seen_otherwise) is retrain
    )  # another extractor changes no retraining
    other_pictures = replace(
        toy, candidates=replace(toy.candidates, images=255 - toy.candidates.images)
    )
    with pytest.raises(ValueError, match="with other candidates; make one"):
        make_evaluator(retrain, other_pictures)
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
    gpu, cpu = (
        LinearProbeEvaluator(toy, device=device).evaluate(masks, 0) for device in ("cuda", "cpu")
    )
    assert gpu.log_likelihood == pytest.approx(cpu.log_likelihood, abs=1e-9)


def test_the_small_network_has_a_name(toy: FeatureBank) -> None:
    quick = make_evaluator("resnet18", toy, device="cpu")
    assert (
        quick.config == QUICK.for_images(16, 16)
        and quick.description == "resnet18 retrained at 16×16 px"
    )
    masks = selections(toy, 1)
    tiny = make_evaluator("resnet18", toy, config=TINY, device="cpu").evaluate(masks, 0)
    assert (
        tiny.brier == RetrainEvaluator(toy, config=TINY, device="cpu").evaluate(masks, 0).brier
    ).all()
    with pytest.raises(ValueError, match="train/images is missing"):
        make_evaluator("resnet18", replace(toy, train=replace(toy.train, images=None)))


def test_temperature_is_found_from_afar(toy: FeatureBank) -> None:
    """Few real images of one class may point the wrong way on validation: the fit without candidates is then no start for the others."""
    probe = LinearProbeEvaluator(toy, device="cpu")
    masks = selections(toy, 8)
    weights = probe._head.fit(torch.from_numpy(masks))
    x, labels = probe._scored(toy.valid)
    scores = torch.cat(
        [weights.mT @ x, -(weights.mT @ x)]
    )  # the second half is best at the least factor
    at_best = fit_temperature(scores, labels, 4.0)
    for start in (0.01, 0.0156, 1000.0):
        assert torch.allclose(fit_temperature(scores, labels, start), at_best, rtol=1e-6)
    alone = torch.cat([fit_temperature(one[None], labels, 4.0) for one in scores])
    assert torch.equal(alone, at_best)


def test_a_candidate_far_from_all_others_is_named(toy: FeatureBank) -> None:
    """Exact sums are rounded to what the farthest image leaves: the probe would see nothing of the others."""
    features = toy.candidates.features.copy()
    features[7] *= 1e7
    with pytest.raises(
        ValueError, match=r"candidates/features, row 7 lies .* standard deviations .* drop it"
    ):
        LinearProbeEvaluator(replace(toy, candidates=replace(toy.candidates, features=features)))


@pytest.mark.parametrize("name", ["linear_probe", "resnet18"])
def test_splits_and_seeds_of_any_integers(toy: FeatureBank, name: str) -> None:
    scored, masks = evaluator(name, toy), selections(toy, 2)
    expected = scored.evaluate(masks, 3)
    assert (scored.evaluate(masks, np.int64(3)).log_likelihood == expected.log_likelihood).all()
    for kind in (np.uint8, np.int32):
        copied = replace(
            toy.valid,
            labels=toy.valid.labels.astype(kind),
            features=np.asfortranarray(toy.valid.features),
        )
        assert scored.is_valid(copied)
        assert (
            scored.evaluate_on(masks, 3, copied)[0].log_likelihood == expected.log_likelihood
        ).all()
        if scored.has_credit:
            assert (scored.credit(masks, 0, copied) == scored.credit(masks, 0)).all()


def test_features_of_any_layout(toy: FeatureBank) -> None:
    random_flips = replace(
        toy, valid=replace(toy.valid.subset(np.arange(len(toy.valid))[::-1]), ids=None)
    )
    view = Dataset(toy.valid.features[::-1], toy.valid.labels[::-1])
    masks = selections(toy, 2)
    ours, expected = (
        LinearProbeEvaluator(b, device="cpu").evaluate(masks, 0)
        for b in (replace(toy, valid=view), random_flips)
    )
    assert (ours.log_likelihood == expected.log_likelihood).all()


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert default_workers() == 3
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_workers() == 1 and default_workers("cpu") == 3  # on a GPU they would share it
    monkeypatch.setattr("synthselect_env.training.device.in_forked_process", lambda: True)
    assert default_workers() == 3  # a process that was forked beside a GPU cannot use it


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_has_no_bfloat16() -> None:
    assert not has_bfloat16(torch.device("cuda"))


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx2", False), ("fpu avx512_bf16", True), ("amx_bf16 amx_tile", True), (None, False)],
)
def test_bfloat16_is_fast_where_the_processor_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, fast: bool
) -> None:
    """By torch where it says so, else by what Linux lists."""
    if flags:
        (tmp_path / "cpuinfo").write_text(
            f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre\n"
        )
    able = {**dict.fromkeys((flags or "").split(), True), "avx10": False, "cpu_name": "amx_tile"}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able, raising=False)
    by_torch = processor_flags.__wrapped__()
    monkeypatch.delattr("torch.cpu.get_capabilities")
    by_linux = processor_flags.__wrapped__(tmp_path / "cpuinfo")
    assert by_torch == by_linux == set((flags or "").split())
    monkeypatch.setattr("synthselect_env.training.device.processor_flags", lambda: by_linux)
    assert has_bfloat16(torch.device("cpu")) == fast and not has_bfloat16(torch.device("meta"))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 3), ("max 100000", 3)],
)
def test_cores_are_those_that_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert available_cores(tmp_path / "cpu.max") == cores


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize(
    ("then", "threads"),
    [("synthselect_env.SyntheticSelectionEnv(toy); torch.linalg.svd(x)", 1), ("pass", 2)],
)
def test_threads_of_a_forked_process(then: str, threads: int) -> None:
    """An environment in it (Gymnasium's AsyncVectorEnv) does not wait for threads that it has not; a plain fork is left alone."""
    code = (
        "import os, torch, synthselect_env; toy = synthselect_env.load_bank('toy')\n"
        "torch.set_num_threads(2); x = torch.rand(300, 300); torch.linalg.svd(x); synthselect_env.SyntheticSelectionEnv(toy)\n"
        "assert torch.get_num_threads() == 2; child = os.fork()\n"
        f"if not child: {then}; os._exit(torch.get_num_threads())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == [str(threads), "2"], done.stderr


def test_a_callback_is_not_sent_along(toy: FeatureBank) -> None:
    """What draws a bar is often a lambda, which cannot be pickled."""
    told: list[int] = []
    ours = RetrainEvaluator(
        toy, config=TINY, device="cpu", on_epoch=lambda done, epoch, metrics: told.append(epoch)
    )
    masks = selections(toy, 1)
    copied = pickle.loads(pickle.dumps(ours)).evaluate(masks, 0)
    assert (
        not told
        and (ours.evaluate(masks, 0).log_likelihood == copied.log_likelihood).all()
        and told
    )
