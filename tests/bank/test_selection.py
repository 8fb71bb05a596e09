from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from synthselect_env import FeatureBank, Selection


@pytest.mark.parametrize("by_spreadsheet", [False, True], ids=["ours", "spreadsheet"])
def test_round_trip(toy: FeatureBank, tmp_path: Path, by_spreadsheet: bool) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "selection.csv"
    selection = Selection.of(toy, rng.random(64) < 0.5, rng.normal(size=64), "a test")
    selection.save(path)
    assert path.read_text().splitlines()[0] == "id,label,selected,score"
    if by_spreadsheet:  # which puts a byte order mark in front
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    read = Selection.load(path)
    assert np.array_equal(read.mask, selection.mask)
    assert np.array_equal(read.scores, selection.scores)
    assert (read.ids, read.labels) == (selection.ids, selection.labels)
    assert read.count == selection.count and len(read) == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,b\n", "expected columns"),
        ("id,label,selected,score\na,b,yes,1\n", "line 2: selected is 'yes'"),
        ("id,label,selected,score\na,b,1,x\n", "not a number"),
        ("id,label,selected,score\na,b,1\n", "not a number"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=f"s.csv.*{message}"):
        Selection.load(tmp_path / "s.csv")


def test_selection_of_another_pool_is_refused(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match=r"must both be \(64,\)"):
        Selection.of(toy, np.zeros(5, bool), np.zeros(5), "x")


def test_candidates_without_ids_are_named_by_position(toy: FeatureBank) -> None:
    nameless = replace(toy, candidates=replace(toy.candidates, ids=None))
    selection = Selection.of(nameless, np.ones(64, bool), np.zeros(64), "x")
    assert selection.ids[:2] == ("candidate-0", "candidate-1")
