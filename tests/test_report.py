from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from agents.evaluation.comparison import Comparison, Outcome, compare
from agents.report import (
    comparison_latex,
    comparison_markdown,
    comparison_table,
    discovery,
    discovery_curve,
    feature_map,
    learning_curves,
    most_and_least_wanted,
    read_history,
    real_and_candidates,
    recommendation,
    save_figure,
    selection_rates,
    flaw_detection_metrics,
    write_report,
)
from agents.report.charts import principal_plane
from agents.report.html import STYLE, inline_svg
from agents.report.plotting import COLOURS, panels
from synthselect_env import FeatureBank, Selection, load_bank
from synthselect_env.metrics import METRICS

pytest.importorskip("matplotlib")

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that what is opened is closed in order, and keeps what a reader would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(attrs)

    def note(self, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [
            value or "" for name, value in attrs if name in ("href", "xlink:href", "src")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] != "style":
            self.words += f"{data} "


def judged(
    bank: FeatureBank, figures: dict[str, list[float]], kept: int | None = None
) -> Comparison:
    """A comparison with the given test accuracies, a round each; all but "none" keep the first ``kept`` candidates."""
    n = len(bank.candidates)
    outcomes = []
    for name, accuracies in figures.items():
        mask = np.arange(n) < (0 if name == "none" else n if kept is None else kept)
        chosen = Selection.of(bank, mask, np.linspace(1, -1, n), name)
        for r, accuracy in enumerate(accuracies):
            valid, test = (dict.fromkeys(METRICS, value) for value in (accuracy + 0.02, accuracy))
            right = np.arange(200) < round(200 * accuracy)
            outcomes.append(
                Outcome(
                    name,
                    r,
                    chosen,
                    valid,
                    test,
                    np.log(np.where(np.stack([right, ~right], 1), 0.9, 0.1)),
                )
            )
    return Comparison("linear probe", tuple(outcomes), np.zeros(200, np.int64))


@pytest.fixture(scope="module")
def planted() -> FeatureBank:
    """128 candidates of the embedded bank of known truth."""
    bank = load_bank("pcam-planted")
    return replace(
        bank,
        candidates=bank.candidates.subset(np.arange(0, len(bank.candidates), 16)),
        retrainings=None,
    )


def test_page_stands_alone(planted: FeatureBank, tmp_path: Path) -> None:
    comparison = compare(planted, ["none", "all", "random", "centroid", "oracle"], rounds=2)
    history = {
        "rollout/ep_rew_mean": np.arange(20.0),
        "time/total_timesteps": 256.0 * np.arange(20),
    }
    path = write_report(
        tmp_path / "r.html",
        planted,
        comparison,
        "centroid",
        history=history,
        configuration={"arguments": {"seed": 3}},
    )
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == tmp_path / "r.html" and len(list(tmp_path.iterdir())) == 1
    assert page.headings == [
        "Comparison", "Learning curves", "What was kept", "Pictures", "Most and least wanted", "Known truth", "Bank", "Configuration and versions",
    ]  # fmt: skip
    assert (
        "http://" not in text
        and "https://" not in text
        and "<script" not in text
        and "@import" not in text
    )
    assert all(link.startswith(("#", "data:image/")) for link in page.links) and not re.search(
        r"url\((?!#)", text
    )
    assert len(set(page.ids)) == len(page.ids) and {
        link[1:] for link in page.links if link[0] == "#"
    } <= set(page.ids)
    assert 50_000 < len(text.encode()) < 2_000_000
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert (
        "wrong label" in page.words
        and "arguments.seed" in page.words
        and "versions.torch" in page.words
    )
    assert (
        text.count("data:image/jpeg") == 2 * 4 * 12 + 2 * 2 * 10
    )  # real, candidates, kept, discarded; most and least wanted


def test_series_have_colours_of_their_own() -> None:
    """Eight of them, which a report shows in the page's colours, on light and on dark."""
    figure, (axes,) = panels(1, 3, 2)
    for i in range(1, 9):
        axes.plot([0, i], color=COLOURS[i])
    drawn = set(
        re.findall(r"stroke: var\((--series-\d)\)", inline_svg(figure, "all", "eight lines"))
    )
    assert len(drawn) == 8
    for colours in re.findall(r":root \{(.*?)\}", STYLE)[:2]:
        values = dict(re.findall(r"(--series-\d): (#\w+);", colours))
        assert drawn <= set(values) and len(set(values.values())) == len(values)


def test_same_input_same_page(toy: FeatureBank, tmp_path: Path) -> None:
    comparison = compare(toy, ["none", "centroid"], rounds=1)
    pages = [
        write_report(tmp_path / name, toy, comparison, "centroid").read_bytes()
        for name in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]


def test_directory_has_figures_and_tables(toy: FeatureBank, tmp_path: Path) -> None:
    comparison = compare(toy, ["none", "random", "centroid"], rounds=2)
    path = write_report(
        tmp_path,
        toy,
        comparison,
        "centroid",
        others=[replace(comparison, classifier="resnet 34/x")],
    )
    assert path == tmp_path / "report.html" and "classifier: resnet 34/x" in path.read_text(
        encoding="utf-8"
    )
    names = [
        "centroid_distances", "discovery_curve", "feature_map", "gap", "kept_and_discarded", "most_and_least_wanted", "real_and_candidates",
        "selection_rates",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(
        f"{n}.{s}" for n in names for s in ("png", "svg")
    )
    for file in (tmp_path / "figures").iterdir():
        head = file.read_bytes()[:200]
        assert head.startswith(b"\x89PNG") if file.suffix == ".png" else b"<?xml" in head
    stems = [
        f"comparison-{classifier}.{s}"
        for classifier in ("linear-probe", "resnet-34-x")
        for s in ("csv", "md", "tex", "txt")
    ]
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == stems
    less = replace(
        comparison, outcomes=tuple(o for o in comparison.outcomes if o.selector != "random")
    )  # of a classifier of the same name
    write_report(tmp_path / "twice", toy, comparison, "centroid", others=[less])
    first, second = (
        (tmp_path / "twice" / "tables" / f"comparison-linear-probe{which}.csv").read_text()
        for which in ("", "-2")
    )
    assert "random" in first and "random" not in second


def test_what_a_bank_lacks_is_left_out(toy: FeatureBank, tmp_path: Path) -> None:
    """Neither truth nor images nor scores: no section of them."""
    bare = replace(
        toy,
        **{
            name: replace(getattr(toy, name), images=None, flaw=None)
            for name in ("train", "candidates")
        },
    )
    comparison = compare(bare, ["none", "all", "centroid"], rounds=1)
    text = write_report(tmp_path / "r.html", bare, comparison, "all").read_text(encoding="utf-8")
    assert Page(text).headings == [
        "Comparison",
        "What was kept",
        "Bank",
        "Configuration and versions",
    ]
    assert "sound" not in Page(text).words and "data:image/jpeg" not in text
    text = write_report(tmp_path / "r.html", bare, comparison, "centroid").read_text(
        encoding="utf-8"
    )
    assert (
        "Most and least wanted" in Page(text).headings and "candidate-63" in text
    )  # ids and scores alone
    with pytest.raises(ValueError, match="train/images is missing"):
        real_and_candidates(replace(toy, train=bare.train))


@pytest.mark.parametrize(
    ("ours", "kept", "decision", "words"),
    [
        (
            [0.72, 0.73, 0.72],
            40,
            "add",
            "Add these 40 of 64: +2.3 points of test accuracy, 95 % interval ",
        ),
        (
            [0.66, 0.655, 0.65],
            40,
            "leave",
            "Do not add these 40 of 64: −4.5 points of test accuracy, 95 % interval ",
        ),
        (
            [0.69, 0.72, 0.70],
            64,
            "undecided",
            "Undecided whether to add all 64: +0.3 points of test accuracy, 95 % interval ",
        ),
    ],
)
def test_sentence_matches_the_figures(
    toy: FeatureBank, tmp_path: Path, ours: list[float], kept: int, decision: str, words: str
) -> None:
    comparison = judged(
        toy, {"none": [0.70, 0.70, 0.70], "random": [0.70, 0.70, 0.72], "PPO": ours}, kept
    )
    said, sentence = recommendation(comparison, "PPO")
    assert said == decision and sentence.startswith(words)
    low, high = (
        float(end.replace("−", "-"))
        for end in re.findall(r"interval (\S+) to ([+−]\d+\.\d)", sentence)[0]
    )
    assert (low, high) == pytest.approx([100 * end for end in comparison.gain("PPO")[1:]], abs=0.05)
    assert ("contains zero" in sentence) == (low <= 0 <= high)
    won = sum(a > b for a, b in zip(ours, [0.70, 0.70, 0.72]))
    assert sentence.endswith(
        f"better than random in {won} of 3 rounds. Validation–test gap: +2.0 points."
    )
    text = write_report(tmp_path / "r.html", toy, comparison, "PPO").read_text(encoding="utf-8")
    assert text.count(sentence) == 1 and f'class="recommendation {decision}"' in text


def test_one_round_and_few_patients_are_said(toy: FeatureBank, tmp_path: Path) -> None:
    """Their intervals know less chance than there is."""
    once, often = (
        judged(toy, {"none": [0.7], "PPO": [0.75]}, 40),
        judged(toy, {"none": [0.7, 0.7], "PPO": [0.75, 0.76]}, 40),
    )
    for comparison, alone in ((once, True), (often, False)):
        text = Page(
            write_report(tmp_path / "r.html", toy, comparison, "PPO").read_text(encoding="utf-8")
        ).words
        assert (
            ("over test pictures alone" in recommendation(comparison, "PPO")[1])
            == ("over test pictures alone" in text)
            == alone
        )
    groups = np.arange(len(often.labels)) % 7
    assert (
        "(too narrow, being over 7 patients)"
        in recommendation(replace(often, groups=groups), "PPO")[1]
    )
    assert (
        "over the test split's patients alone"
        in recommendation(replace(once, groups=groups), "PPO")[1]
    )
    assert (
        "patients"
        not in recommendation(replace(often, groups=np.arange(len(often.labels))), "PPO")[1]
    )


def test_balanced_accuracy_may_disagree(toy: FeatureBank) -> None:
    comparison = judged(toy, {"none": [0.7, 0.7], "PPO": [0.75, 0.76]}, 40)
    assert "balanced" not in recommendation(comparison, "PPO")[1]
    worse = [
        replace(o, test={**o.test, "balanced_accuracy": 0.6}) if o.selector == "PPO" else o
        for o in comparison.outcomes
    ]
    assert "points of test accuracy, 95 % interval" in (
        said := recommendation(replace(comparison, outcomes=tuple(worse)), "PPO")[1]
    )
    assert "but −10.0 of balanced accuracy" in said


def test_the_title_says_which_class_is_found(toy: FeatureBank) -> None:
    assert f"sensitivity to {toy.classes[1]}, specificity of {toy.classes[0]}" in comparison_table(
        compare(toy, ["none"], rounds=1)
    )


def test_sentence_without_a_gain(toy: FeatureBank, small: FeatureBank, tmp_path: Path) -> None:
    comparison = judged(toy, {"none": [0.7, 0.7], "PPO": [0.7, 0.7]}, kept=0)
    assert recommendation(comparison, "PPO") == (
        "leave",
        "Add nothing: PPO keeps none of the 64 candidates. Validation–test gap: +2.0 points.",
    )
    Page(
        write_report(tmp_path / "r.html", toy, judged(toy, {"none": [0.7]}), "none").read_text(
            encoding="utf-8"
        )
    )
    for figures in ({"none": [0.7]}, {"PPO": [0.7], "all": [0.6]}):
        with pytest.raises(ValueError, match="was not compared"):
            write_report(tmp_path / "r.html", toy, judged(toy, figures), "PPO")
    with pytest.raises(ValueError, match="of 64 candidates, .* has 26"):
        write_report(tmp_path / "r.html", small, judged(toy, {"none": [0.7], "PPO": [0.7]}), "PPO")


def test_names_are_escaped(toy: FeatureBank, tmp_path: Path) -> None:
    """Ids, classes, selectors and settings are text, wherever they stand."""
    evil = "<img src=\"https://x\" onerror='alert(1)'>&amp; $a$"
    ids = tuple(f"{evil}{i}" for i in range(len(toy.candidates)))
    bank = replace(
        toy,
        candidates=replace(toy.candidates, ids=ids),
        classes=("<b>left", "$right$"),
        source="/home/me/<i>.h5",
    )
    comparison = judged(bank, {"none": [0.7, 0.7], evil: [0.8, 0.81]}, kept=30)
    path = write_report(tmp_path, bank, comparison, evil, configuration={evil: evil})
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert (
        all(link.startswith(("#", "data:image/")) for link in page.links)
        and "<b>left" not in text
        and "<i>" not in text
    )
    assert f"{evil}0" in page.words and "<b>left, kept: " in page.words and "$right$" in page.words
    assert "/home/me" not in text


def test_table_as_latex_and_markdown(toy: FeatureBank) -> None:
    comparison = judged(toy, {"none": [0.70, 0.71], r"my_best & 50% #1 {a}~^\|": [0.65, 0.64]})
    text = comparison_latex(comparison)
    assert text.splitlines()[1:3] == [r"\begin{tabular}{lrrrrrrrr}", r"\toprule"] and text.endswith(
        "\\bottomrule\n\\end{tabular}"
    )
    assert (
        r"my\_best \& 50\% \#1 \{a\}\textasciitilde{}\textasciicircum{}\textbackslash{}| & 64 $\pm$ 0 & 0.6450 $\pm$ 0.0071"
        in text
    )
    assert "$-$6.0 [$-$" in text and "±" not in text and "−" not in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3 and all(len(re.findall(r"(?<!\\)&", row)) == 8 for row in rows)
    lines = comparison_markdown(comparison).splitlines()
    assert lines[1] == "| --- |" + " ---: |" * 8 and r"{a}~^\\\| | 64 ± 0 |" in lines[3]


def test_discovery_and_f1_against_counting(toy: FeatureBank) -> None:
    rng = np.random.default_rng(0)
    flaw, scores = (rng.random(40) < 0.6).astype(np.int8), rng.normal(size=40)
    order = np.argsort(-scores)
    expected = [np.sum(flaw[order[:k]] == 0) / np.sum(flaw == 0) for k in range(41)]
    assert discovery(scores, flaw == 0) == pytest.approx(expected)
    tied = np.round(scores)  # in expectation over the orders of equal scores
    orders = [np.lexsort((rng.random(40), -tied)) for _ in range(4000)]
    expected = np.mean(
        [np.concatenate([[0], np.cumsum(flaw[o] == 0)]) for o in orders], axis=0
    ) / np.sum(flaw == 0)
    assert discovery(tied, flaw == 0) == pytest.approx(expected, abs=0.02)

    mask = scores > 0.3
    figures = flaw_detection_metrics(Selection(mask, tied, range(40), range(40), "x"), flaw)
    assert figures["AUC"] == pytest.approx(roc_auc_score(flaw == 0, tied)) and figures[
        "F1"
    ] == pytest.approx(f1_score(flaw == 0, mask))
    assert figures["precision"] == pytest.approx(np.mean(flaw[mask] == 0)) and figures[
        "recall"
    ] == pytest.approx(np.mean(mask[flaw == 0]))
    nothing = flaw_detection_metrics(
        Selection(np.zeros(40, bool), tied, range(40), range(40), "x"), flaw
    )
    assert np.isnan(nothing["precision"]) and nothing["F1"] == 0

    axes = discovery_curve({"x": Selection(mask, tied, range(40), range(40), "x")}, flaw).axes[0]
    assert axes.lines[2].get_ydata() == pytest.approx(discovery(tied, flaw == 0))
    assert list(axes.collections[0].get_offsets()[0]) == pytest.approx(
        [mask.sum(), figures["recall"]]
    )


def test_history(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "rollout/selected,train/entropy_loss,time/total_timesteps,note\n32,-3,8,a\n,-2,16,\n16,,24,b\n"
    )
    history = read_history(tmp_path / "metrics.csv")
    assert (
        history["rollout/selected"] == pytest.approx([32, np.nan, 16], nan_ok=True)
        and np.isnan(history["note"]).all()
    )
    rate, entropy = learning_curves(history, 64).axes
    assert rate.lines[0].get_xdata() == pytest.approx([8, 24]) and rate.lines[
        0
    ].get_ydata() == pytest.approx([0.5, 0.25])
    assert entropy.lines[0].get_ydata() == pytest.approx([3, 2])
    (decision,) = learning_curves(
        {"train/entropy_of_a_decision": np.array([0.6, 0.5])}, 64
    ).axes  # CreditPPO's
    assert decision.get_title(loc="left") == "entropy of a decision, nats" and decision.lines[
        0
    ].get_ydata() == pytest.approx([0.6, 0.5])
    with pytest.raises(ValueError, match="is it a metrics.csv"):
        learning_curves({"note": np.ones(3)}, 64)


def test_legends_have_all_names(toy: FeatureBank) -> None:
    """matplotlib leaves out what begins with an underscore; long names stand below each other."""
    bank = replace(toy, classes=("_left", "high-grade squamous intraepithelial lesion"))
    figure = selection_rates(bank, compare(bank, ["none", "all"], rounds=1))
    (legend,) = figure.legends
    assert [text.get_text().lstrip("\u200b") for text in legend.get_texts()] == list(bank.classes)
    figure.draw_without_rendering()
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1


def test_charts_show_the_figures(toy: FeatureBank, tmp_path: Path) -> None:
    comparison = compare(toy, ["none", "centroid"], rounds=2)
    chosen = comparison.of("centroid")[0].selection
    bars = [bar.get_width() for bar in selection_rates(toy, comparison).axes[0].patches]
    expected = [[0, 100 * chosen.mask[toy.candidates.labels == i].mean()] for i in (0, 1)]
    assert bars == pytest.approx(np.ravel(expected))
    assert [axes.get_title() for axes in feature_map(toy, chosen).axes] == [
        f"kept ({chosen.count})",
        f"discarded ({64 - chosen.count})",
    ]
    figure = most_and_least_wanted(toy, chosen, columns=3)
    best = max(
        (i for i in range(64) if toy.candidates.labels[i] == 0), key=lambda i: chosen.scores[i]
    )
    assert (
        figure.axes[0].texts[0].get_text() == f"{chosen.scores[best]:.3g}\n{chosen.ids[best]}"
        and len(figure.axes) == 4
    )
    save_figure(figure, tmp_path / "wanted.png")
    with pytest.raises(ValueError, match="name the picture's format by a suffix"):
        save_figure(figure, tmp_path / "wanted")


def test_plane_is_that_of_a_singular_value_decomposition() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    plane, shares = principal_plane(rows)
    _, singular, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert np.abs(plane.T @ axes[:2].T) == pytest.approx(np.eye(2), abs=1e-9)
    assert shares == pytest.approx((singular**2 / (singular**2).sum())[:2])
