"""The contract that all selectors keep, and the base classes of new ones."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from stable_baselines3 import PPO

import agents.selectors
from agents import CreditPPO, TransformerPolicy
from agents.evaluation import compare
from agents.selectors import (
    SELECTORS,
    PerReal,
    RatioSelector,
    SearchSelector,
    Selector,
    make_selector,
)
from synthselect_env import Dataset, FeatureBank, Selection, SelectionVecEnv
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import LinearProbeEvaluator

RATIO_SELECTORS = [name for name, cls in SELECTORS.items() if issubclass(cls, RatioSelector)]
SEARCHES = [name for name, cls in SELECTORS.items() if issubclass(cls, SearchSelector)]
RANDOM = {"random", "triplet", "Data-OOB", *SEARCHES}

AUC_OF_SOUND = {  # reached where classes hardly overlap
    "triplet": 0.98,
    "entropy + centroid": 0.7,  # its first filter drops sound candidates, too
    "confidence": 0.98,
    "label fit + realism": 0.98,
    "KNN-Shapley": 0.98,
    "Data-OOB": 0.98,
    "influence": 0.98,
    "gradient matching": 0.85,  # matching wants a spread
    "herding": 0.9,
}


def quick(name: str, **arguments: object) -> Selector:
    """A selector that does little work."""
    work = {"triplet": {"steps": 20}, "Data-OOB": {"n_classifiers": 64}}
    work |= {name: {"evaluations": 16} for name in SEARCHES}
    return SELECTORS[name](**work.get(name, {}), **arguments)


def three_classes(n_candidates: int = 30) -> FeatureBank:
    """Gaussian classes on three axes, of different sizes."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> Dataset:
        labels = np.repeat([0, 1, 2], [n // 2, n // 3, n - n // 2 - n // 3])
        features = 3 * np.eye(5)[labels] + rng.normal(size=(n, 5))
        flaw = np.zeros(n, np.int8)
        return Dataset(features.astype(np.float32), labels, flaw=flaw)

    train, valid, test, candidates = (draw(n) for n in (24, 40, 12, n_candidates))
    return FeatureBank(train, valid, test, candidates, classes=("a", "b", "c"))


@pytest.mark.parametrize("name", SELECTORS)
class TestAll:
    def test_decides_for_every_candidate(self, small: FeatureBank, name: str) -> None:
        for bank in (small, three_classes()):
            selection = quick(name).select(bank, 0)
            shape = (len(bank.candidates),)
            assert selection.mask.shape == selection.scores.shape == shape
            assert selection.mask.dtype == bool
            assert selection.scores.dtype == np.float64
            assert np.isfinite(selection.scores).all()
            assert selection.source == name

    def test_same_seed_same_selection(self, toy: FeatureBank, name: str) -> None:
        torch.manual_seed(1)
        torch_state = torch.random.get_rng_state()
        numpy_state = np.random.get_state()[1].copy()
        first = quick(name).select(toy, 5)
        assert torch.equal(torch_state, torch.random.get_rng_state())
        assert (np.random.get_state()[1] == numpy_state).all()
        torch.manual_seed(2)
        again, other = (quick(name).select(toy, seed) for seed in (5, 6))
        assert (first.scores == again.scores).all()
        assert (first.mask == again.mask).all()
        assert (first.scores != other.scores).any() == (name in RANDOM)

    def test_does_not_read_the_test_split(self, toy: FeatureBank, name: str) -> None:
        other = replace(toy, test=replace(toy.test, features=-toy.test.features))
        expected = quick(name).select(toy, 0)
        for bank in (other, replace(toy, test=None)):
            assert (quick(name).select(bank, 0).scores == expected.scores).all()

    def test_only_the_oracle_sees_flaws(self, toy: FeatureBank, name: str) -> None:
        blind = replace(toy, candidates=replace(toy.candidates, flaw=None))
        assert SELECTORS[name].knows_truth == (name == "oracle")
        if name != "oracle":
            expected = quick(name).select(toy, 0)
            assert (quick(name).select(blind, 0).scores == expected.scores).all()

    def test_candidates_may_be_a_memory_map(
        self, toy: FeatureBank, name: str, tmp_path: Path
    ) -> None:
        np.save(tmp_path / "features.npy", toy.candidates.features)
        mapped = np.load(tmp_path / "features.npy", mmap_mode="r")  # cannot be written to
        bank = replace(toy, candidates=replace(toy.candidates, features=mapped))
        expected = quick(name).select(toy, 0)
        assert (quick(name).select(bank, 0).scores == expected.scores).all()

    def test_pool_of_one_class(self, toy: FeatureBank, name: str) -> None:
        bank = replace(toy, candidates=toy.candidates.subset(toy.candidates.labels == 1))
        selection = quick(name).select(bank, 0)
        if name in RATIO_SELECTORS:
            assert selection.count == round(0.5 * len(bank.candidates))

    def test_settings_tell_it_from_others(self, name: str) -> None:
        """A comparison stores selections under the settings."""
        assert json.dumps(quick(name).settings()) == json.dumps(quick(name).settings())
        if name in RATIO_SELECTORS:
            assert quick(name, ratio=0.4).settings() != quick(name).settings()
        if name in SEARCHES:
            assert SELECTORS[name](evaluations=17).settings() != quick(name).settings()


@pytest.mark.parametrize("name", RATIO_SELECTORS)
class TestRatioSelectors:
    def test_keep_the_best_share_of_each_class(self, small: FeatureBank, name: str) -> None:
        for bank, ratio in product((small, three_classes()), (0.0, 0.3, 1.0)):
            selection = quick(name, ratio=ratio).select(bank, 0)
            labels = bank.candidates.labels
            for label in range(len(bank.classes)):
                kept = selection.scores[(labels == label) & selection.mask]
                left = selection.scores[(labels == label) & ~selection.mask]
                assert len(kept) == round(ratio * (labels == label).sum())
                assert kept.min(initial=np.inf) >= left.max(initial=-np.inf)

    def test_keep_half_by_default(self, toy: FeatureBank, name: str) -> None:
        default, half = quick(name).select(toy, 0), quick(name, ratio=0.5).select(toy, 0)
        assert default.count == 32
        assert (default.mask == half.mask).all()

    def test_refuse_a_ratio_that_is_no_share(self, name: str) -> None:
        for ratio in (-0.1, 50):
            with pytest.raises(ValueError, match="ratio must lie between 0 and 1"):
                SELECTORS[name](ratio=ratio)

    def test_do_not_depend_on_the_order_of_the_pool(self, toy: FeatureBank, name: str) -> None:
        if name in ("random", "Data-OOB"):
            pytest.skip("numbers and bags are drawn by position")
        order = np.random.default_rng(0).permutation(len(toy.candidates))
        shuffled = replace(toy, candidates=toy.candidates.subset(order))
        expected = quick(name).select(toy, 0).scores[order]
        assert quick(name).select(shuffled, 0).scores == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def easy() -> FeatureBank:
    """Classes that hardly overlap. Half of the candidates have the wrong label."""
    return toy_bank(candidates_per_class=64, noise=0.3)


@pytest.mark.parametrize("name", AUC_OF_SOUND)
def test_wrong_labels_come_last(easy: FeatureBank, name: str) -> None:
    bank, sound = easy, easy.candidates.flaw == 0
    if name == "Data-OOB":  # no image is in every bag: what is right is what most labels say
        rarer = sound | (np.arange(len(sound)) % 2 == 0)
        bank, sound = replace(easy, candidates=easy.candidates.subset(rarer)), sound[rarer]
    scores = SELECTORS[name]().select(bank, 0).scores
    for label in (0, 1):  # candidates are ranked within their class
        members = bank.candidates.labels == label
        assert roc_auc_score(sound[members], scores[members]) > AUC_OF_SOUND[name]


class TestOwnSelector:
    """A selector that a user writes."""

    def test_ties_go_to_the_earlier_candidate(self, toy: FeatureBank) -> None:
        class Constant(RatioSelector):
            name = "constant"

            def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
                return np.zeros(len(bank.candidates))

        mask = Constant(ratio=0.25).select(toy, 0).mask
        for label in (0, 1):
            members = np.flatnonzero(toy.candidates.labels == label)
            assert mask[members].tolist() == [True] * 8 + [False] * 24

    def test_settings_say_all_attributes(self, toy: FeatureBank) -> None:
        @dataclass
        class Options:
            depth: int

        class Detailed(Selector):
            name = "detailed"

            def __init__(self, depth: int = 1, ridge: float = 1.0, weight: float = 0.0) -> None:
                self.options = Options(depth)
                self.evaluator = LinearProbeEvaluator(toy, ridge=ridge, device="cpu")
                self.network = torch.nn.Linear(1, 1, bias=False)
                torch.nn.init.constant_(self.network.weight, weight)
                self.nested = {"kinds": (Options, None, True)}

            def select(self, bank: FeatureBank, seed: int) -> Selection:
                raise AssertionError

        variants = [Detailed(), Detailed(2), Detailed(ridge=2.0), Detailed(weight=1.0)]
        texts = [json.dumps(variant.settings()) for variant in variants]
        assert len(set(texts)) == 4
        assert json.dumps(Detailed().settings()) == texts[0]

    def test_an_attribute_of_unknown_kind_has_no_settings(self) -> None:
        selector = SELECTORS["none"]()
        selector.rule = lambda row: row
        with pytest.raises(NotImplementedError, match="NoneSelector.rule is a function"):
            selector.settings()


def examples(name: str) -> list[str]:
    """The code blocks in the docstring of a public class."""
    text = inspect.getdoc(getattr(agents.selectors, name)) + "\n"
    blocks = re.findall(r"\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", text)
    return [textwrap.dedent(block) for block in blocks]


PUBLIC_CLASSES = [n for n in agents.selectors.__all__ if inspect.isclass(vars(agents.selectors)[n])]


@pytest.mark.parametrize("name", PUBLIC_CLASSES)
def test_docstring_examples_run(
    name: str, toy: FeatureBank, pcam: FeatureBank, planted: FeatureBank
) -> None:
    banks = {"toy": toy, "pcam": pcam, "pcam-planted": planted}
    load: Callable[[str], FeatureBank] = banks.__getitem__
    found = examples(name)
    assert found
    for code in found:
        names = {**vars(agents.selectors), "np": np, "load_bank": load, "compare": compare}
        names |= {"PPO": PPO, "CreditPPO": CreditPPO, "TransformerPolicy": TransformerPolicy}
        exec(code, names | {"SelectionVecEnv": SelectionVecEnv})


@pytest.mark.parametrize(("size", "kept"), [("@1", 24), ("@0.5", 12), ("@50%", 15), ("@9", 30)])
def test_a_size_in_a_name(size: str, kept: int) -> None:
    """There are 24 real training images, and 30 candidates in classes of 15, 10 and 5."""
    bank = three_classes()
    selector = make_selector(f"centroid{size}")
    selection = selector.select(bank, 0)
    assert selection.source == selector.name == f"centroid{size}"
    assert abs(selection.count - kept) <= 1  # each class is rounded
    share = kept / len(bank.candidates)
    counts = np.bincount(bank.candidates.labels[selection.mask], minlength=3)
    assert np.abs(counts - share * np.array([15, 10, 5])).max() <= 0.5

    # The best-scored come first at every size.
    scores = make_selector("centroid").select(bank, 0).scores
    assert (selection.scores == scores).all()
    for label in range(3):
        own = bank.candidates.labels == label
        left = scores[own & ~selection.mask]
        assert not len(left) or scores[own & selection.mask].min() >= left.max()


def test_sizes_make_rows_of_their_own(toy: FeatureBank) -> None:
    comparison = compare(toy, ["none", "random@1", "random@2", "random"], rounds=1)
    counts = [outcome.selection.count for outcome in comparison.outcomes]
    assert counts == [0, 24, 48, 32]
    first, second = (PerReal(1.0), PerReal(2.0))
    assert make_selector("random@1").settings() != make_selector("random@2").settings()
    assert first != second


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("best@2", "unknown selector 'best'"),
        ("all@2", "all@2: all decides on its own how many to keep"),
        ("random@", "the size must be a number of synthetic images per real one"),
        ("random@-1", "must not be negative"),
        ("random@150%", "ratio must lie between 0 and 1, got 1.5"),
        ("random@nan", "must not be negative"),
    ],
)
def test_sizes_that_make_no_sense(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_selector(name)
