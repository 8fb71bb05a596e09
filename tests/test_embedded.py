"""The embedded banks: what they are said to hold, they hold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from synthselect_env import load_bank
from synthselect_env.bank.embedded import EMBEDDED, planted_pcam
from synthselect_env.data import compute_image_stats, decode
from synthselect_env.data.dataset import Dataset
from synthselect_env.data.flaws import FLAWS
from synthselect_env.evaluators import DatamodelEvaluator, with_retrainings
from synthselect_env.evaluators.retrain import QuickRetrainEvaluator


@pytest.mark.parametrize("name", EMBEDDED)
def test_nothing_looks_wrong_and_provenance_is_told(name: str) -> None:
    bank = load_bank(name)
    assert not bank.warnings() and bank.provenance and bank.extractor
    for split in (bank.train, bank.valid, bank.candidates):
        few = split.images[np.array([0, len(split) - 1])]
        assert (few if isinstance(few, np.ndarray) else few.decode()).shape[0] == 2


@pytest.mark.parametrize("name", ["pcam", "cervical", "pcam-planted"])
def test_retrainings_are_of_these_pictures(name: str) -> None:
    datamodel = DatamodelEvaluator(load_bank(name))  # refuses retrainings of other images
    truth, predicted = datamodel.figures.log_likelihood, datamodel.leave_one_out()
    assert len(truth) >= 32 and np.corrcoef(truth, predicted)[0, 1] > 0.5


@pytest.mark.parametrize("name", ["pcam", "cervical", "pcam-planted"])
def test_retrainings_can_be_gone_on_with(name: str) -> None:
    """``synthselect retrain`` adds to them: they are by the recipe and procedure of today."""
    bank = load_bank(name)

    class Stopped(QuickRetrainEvaluator):
        def predict_on(
            self, selections: np.ndarray, seed: int, *splits: Dataset
        ) -> list[np.ndarray]:
            raise RuntimeError("would be retrained")

    with pytest.raises(RuntimeError, match="would be retrained"):
        with_retrainings(bank, Stopped(bank), 1, seed=0)


def test_cervical_says_that_it_is_a_phantom() -> None:
    bank = load_bank("cervical")
    assert "not tissue" in bank.describe() and bank.classes == ("Normal", "CIN1", "CIN2", "CIN3")
    assert [len(batch) for batch in bank.batches] == [512] * 8
    assert 0.45 < (bank.candidates.flaw == 0).mean() < 0.55
    assert not set(bank.train.groups) & set(bank.valid.groups)


def test_planted_candidates_are_other_patches_of_the_pcam_bank() -> None:
    """Sound ones to the byte, flawed ones changed as their flaw says; none of them is a training, validation or test patch."""
    pcam, parts = load_bank("pcam"), planted_pcam(n_real=20, n_candidates=60, seed=4)
    pool, real = parts["candidates"], parts["train"]
    position = {picture.tobytes(): i for i, picture in enumerate(pcam.train.images.decode())}
    used = {position[picture.tobytes()] for picture in real.images.decode()}
    assert len(used) == 20
    for picture, label, flaw in zip(pool.images.decode(), pool.labels, pool.flaw):
        found = position.get(picture.tobytes())
        if FLAWS[flaw] in ("sound", "wrong label"):
            assert found not in used and (pcam.train.labels[found] == label) == (flaw == 0)
        else:
            assert found is None
    for name in ("valid", "test"):
        theirs = getattr(pcam, name)
        assert (parts[name].images[[0, 7]].decode() == theirs.images[[0, 7]].decode()).all() and (
            parts[name].labels == theirs.labels
        ).all()
    with pytest.raises(ValueError, match="were asked for"):
        planted_pcam(n_real=3000, n_candidates=2048)


def test_pictures_of_another_pcam_bank_are_refused() -> None:
    images = planted_pcam(20, 20)["train"].images
    images.arguments["pictures"] = "0" * 16
    with pytest.raises(ValueError, match="pictures of another embedded PCam bank"):
        images.decode()


@pytest.mark.parametrize("name", ["cervical", "pcam-planted"])
def test_looks_tell_what_features_do_not(name: str) -> None:
    """Blur, faded stains and tears look unlike real images; a wrong label does not show. What is stored is what the images are.

    The phantom's patients differ so much in their stains that a shift of it is hardly seen.
    """
    bank = load_bank(name)
    sound = bank.candidates.flaw == 0
    told = {
        FLAWS[kind]: roc_auc_score(~sound[part], bank.atypicality[part])
        for kind in np.unique(bank.candidates.flaw[~sound])
        for part in [sound | (bank.candidates.flaw == kind)]
    }
    assert (
        told["blur and noise"] > 0.95
        and told["wrong stain"] > (0.65 if name == "pcam-planted" else 0.55)
        and told.get("torn", 1) > 0.85
    )
    assert 0.4 < told["wrong label"] < 0.6
    some = np.arange(0, len(sound), 97)
    pixels = decode(bank.candidates.images[some], (48, 48) if name == "pcam-planted" else (64, 32))
    assert bank.candidates.image_stats[some] == pytest.approx(compute_image_stats(pixels), abs=1e-4)
