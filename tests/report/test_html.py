from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from agents.evaluation import Comparison, compare
from agents.report import most_and_least_wanted, recommendation, write_report
from agents.report.html_parts import inline_svg
from agents.report.plotting import COLOURS, panels
from agents.report.style import STYLE
from synthselect_env import FeatureBank

pytest.importorskip("matplotlib")

VOID = {"meta", "img", "br", "hr", "link", "input"}
"""Elements without an end tag."""


class Page(HTMLParser):
    """Keeps what a reader sees of an HTML file, and checks that elements are closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.words = ""
        self.feed(self.text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(attrs)

    def note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href", "src"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] != "style":
            self.words += f"{data} "

    @property
    def outside(self) -> list[str]:
        """Links to anything outside the file."""
        return [link for link in self.links if not link.startswith(("#", "data:image/"))]


@pytest.fixture(scope="module")
def planted_page(small_planted: FeatureBank, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A report with every section."""
    folder = tmp_path_factory.mktemp("planted")
    selectors = ["none", "all", "random", "centroid", "oracle"]
    path = write_report(
        folder / "r.html",
        small_planted,
        compare(small_planted, selectors, rounds=2),
        "centroid",
        history={
            "rollout/ep_rew_mean": np.arange(20.0),
            "time/total_timesteps": 256.0 * np.arange(20),
        },
        configuration={"arguments": {"seed": 3}},
    )
    assert path == folder / "r.html"
    assert list(folder.iterdir()) == [path]
    return Page(path)


def test_page_has_all_sections(planted_page: Page) -> None:
    assert planted_page.headings == [
        "Comparison",
        "Learning curves",
        "What was kept",
        "Images",
        "Most and least wanted",
        "Known truth",
        "Bank",
        "Configuration and versions",
    ]
    for words in ("wrong label", "arguments.seed", "versions.torch"):
        assert words in planted_page.words
    random_images = 2 * 4 * 12  # of each class: real, candidates, kept, discarded
    wanted = 2 * 2 * 10  # of each class: most and least wanted
    assert planted_page.text.count("data:image/jpeg") == random_images + wanted
    assert 50_000 < len(planted_page.text.encode()) < 2_000_000


def test_page_stands_alone(planted_page: Page) -> None:
    text = planted_page.text
    for forbidden in ("http://", "https://", "<script", "@import"):
        assert forbidden not in text
    assert not planted_page.outside
    assert not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_links_lead_to_unique_places(planted_page: Page) -> None:
    assert len(set(planted_page.ids)) == len(planted_page.ids)
    targets = {link[1:] for link in planted_page.links if link[0] == "#"}
    assert targets <= set(planted_page.ids)


def test_series_have_colours_of_their_own() -> None:
    """Eight of them, which a report shows in the page's colours, on light and on dark."""
    figure, (axes,) = panels(1, 3, 2)
    for i in range(1, 9):
        axes.plot([0, i], color=COLOURS[i])
    svg = inline_svg(figure, "all", "eight lines")
    drawn = set(re.findall(r"stroke: var\((--series-\d)\)", svg))
    assert len(drawn) == 8
    light_and_dark = re.findall(r":root \{(.*?)\}", STYLE)[:2]
    for colours in light_and_dark:
        values = dict(re.findall(r"(--series-\d): (#\w+);", colours))
        assert drawn <= set(values)
        assert len(set(values.values())) == len(values)


@pytest.mark.slow
def test_directory_has_figures_and_tables(
    toy: FeatureBank, toy_comparison: Comparison, tmp_path: Path
) -> None:
    same_name = replace(
        toy_comparison,
        outcomes=tuple(o for o in toy_comparison.outcomes if o.selector != "random"),
    )
    others = [replace(toy_comparison, classifier="resnet 34/x"), same_name]
    path = write_report(tmp_path, toy, toy_comparison, "centroid", others=others)
    assert path == tmp_path / "report.html"
    assert "classifier: resnet 34/x" in path.read_text(encoding="utf-8")

    names = [
        "centroid_distances",
        "discovery_curve",
        "feature_map",
        "gap",
        "kept_and_discarded",
        "most_and_least_wanted",
        "real_and_candidates",
        "selection_rates",
    ]
    figures = {file.name: file for file in (tmp_path / "figures").iterdir()}
    assert set(figures) == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    for name, file in figures.items():
        head = file.read_bytes()[:200]
        assert head.startswith(b"\x89PNG") if name.endswith("png") else b"<?xml" in head

    tables = {file.name: file for file in (tmp_path / "tables").iterdir()}
    assert set(tables) == {
        f"comparison-{classifier}.{suffix}"
        for classifier in ("linear-probe", "linear-probe-2", "resnet-34-x")
        for suffix in ("csv", "md", "tex", "txt")
    }
    assert "random" in tables["comparison-linear-probe.csv"].read_text()
    assert "random" not in tables["comparison-linear-probe-2.csv"].read_text()

    again = write_report(tmp_path / "again.html", toy, toy_comparison, "centroid", others=others)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_what_a_bank_lacks_is_left_out(toy: FeatureBank, tmp_path: Path) -> None:
    """Neither truth nor images nor scores: no section of them."""
    bare = replace(
        toy,
        train=replace(toy.train, images=None, flaw=None),
        candidates=replace(toy.candidates, images=None, flaw=None),
    )
    comparison = compare(bare, ["none", "all", "centroid"], rounds=1)
    page = Page(write_report(tmp_path / "all.html", bare, comparison, "all"))
    sections = ["Comparison", "What was kept", "Bank", "Configuration and versions"]
    assert page.headings == sections
    assert "sound" not in page.words and "data:image/jpeg" not in page.text

    page = Page(write_report(tmp_path / "centroid.html", bare, comparison, "centroid"))
    assert "Most and least wanted" in page.headings
    assert "candidate-63" in page.words  # ids and scores alone


def test_page_begins_with_the_recommendation(
    toy: FeatureBank, made_up: Callable[..., Comparison], tmp_path: Path
) -> None:
    comparison = made_up(toy, {"none": [0.7], "PPO": [0.78]}, 40)
    decision, sentence = recommendation(comparison, "PPO")
    page = Page(write_report(tmp_path / "r.html", toy, comparison, "PPO"))
    assert decision == "add"
    assert page.text.count(sentence) == 1
    assert f'class="recommendation {decision}"' in page.text
    assert page.words.count("over test images alone") == 2  # there, and below the table


def test_report_on_adding_nothing(
    toy: FeatureBank, made_up: Callable[..., Comparison], tmp_path: Path
) -> None:
    page = Page(write_report(tmp_path / "r.html", toy, made_up(toy, {"none": [0.7]}), "none"))
    assert 'class="recommendation leave"' in page.text


def test_report_on_what_was_not_compared_is_refused(
    toy: FeatureBank, small: FeatureBank, made_up: Callable[..., Comparison], tmp_path: Path
) -> None:
    path = tmp_path / "r.html"
    with pytest.raises(ValueError, match="was not compared"):
        write_report(path, toy, made_up(toy, {"none": [0.7]}), "PPO")
    with pytest.raises(ValueError, match="of 64 candidates, .* has 26"):
        write_report(path, small, made_up(toy, {"none": [0.7], "PPO": [0.7]}), "PPO")
    assert not path.exists()


def test_names_are_escaped(
    toy: FeatureBank, made_up: Callable[..., Comparison], tmp_path: Path
) -> None:
    """Ids, classes, selectors and settings are text, wherever they stand."""
    evil = "<img src=\"https://x\" onerror='alert(1)'>&amp; $a$"
    ids = tuple(f"{evil}{i}" for i in range(len(toy.candidates)))
    bank = replace(
        toy,
        candidates=replace(toy.candidates, ids=ids),
        classes=("<b>left", "$right$"),
        source="/home/me/<i>.h5",
    )
    comparison = made_up(bank, {"none": [0.7, 0.7], evil: [0.8, 0.81]}, kept=30)
    path = write_report(tmp_path / "r.html", bank, comparison, evil, configuration={evil: evil})
    page = Page(path)
    assert not page.outside
    for forbidden in ("<b>left", "<i>", "/home/me"):
        assert forbidden not in page.text
    for words in (f"{evil}0", "<b>left, kept: ", "$right$"):
        assert words in page.words

    # matplotlib takes no formula from them.
    selection = comparison.of(evil)[0].selection
    most_and_least_wanted(bank, selection, columns=2).draw_without_rendering()
