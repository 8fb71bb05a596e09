"""Rules for the repository as a whole."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    "metrics",
    "storage",
    "data",
    "training",
    "synthesis",
    "bank",
    "evaluators",
    "envs",
    "registration",
]
"""Rooms of the environment package; each imports only what stands before it."""


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "synthselect_env").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_rooms_import_downwards_only(path: Path) -> None:
    room = path.relative_to(ROOT / "synthselect_env").parts[0].removesuffix(".py")
    for name in imports(path):
        package, _, rest = name.partition(".")
        assert package != "agents", "the environment must not know its agents"
        other = rest.split(".")[0]
        if (
            package == "synthselect_env"
            and room != "__init__"
            and other in LAYERS
            and other != room
        ):
            assert LAYERS.index(other) < LAYERS.index(room), f"{room} imports {other}"


def reads_test_split(node: ast.AST) -> bool:
    """``bank.test``, ``self.bank.test`` and the like, or ``bank.splits["test"]``."""
    if isinstance(node, ast.Attribute) and node.attr == "test":
        return ast.unparse(node.value).endswith("bank")
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return node.slice.value == "test" and ast.unparse(node.value).endswith("splits")
    return False


def test_only_the_protocol_reads_the_test_split() -> None:
    readers = {
        path.relative_to(ROOT).as_posix()
        for package in ("synthselect_env", "agents")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if reads_test_split(node)
    }
    assert readers == {"agents/evaluation/comparison.py"}


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [
        line for line in readme.splitlines() if line.startswith("pip install") and "pytest" in line
    ]
    assert len(commands) == 1 and "README.md" in (ROOT / ".ci" / "run").read_text()


SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", [s.name for s in SCRIPTS if s.name != "machine.py"])
def test_each_benchmark_is_listed(script: str) -> None:
    listed = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert f"`{script}" in listed


def test_each_results_page_is_listed() -> None:
    listed = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "benchmarks" / "results").glob("*.md"):
        assert f"(results/{page.name})" in listed, page.name


def test_assets_stay_small() -> None:
    sizes = [p.stat().st_size for p in (ROOT / "synthselect_env" / "assets").iterdir()]
    assert sum(sizes) < 48 * 2**20 and max(sizes) < 40e6


@pytest.mark.slow
def test_optional_packages_are_optional() -> None:
    """The core imports without any extra, and says what to install where one is needed."""
    code = (
        "import sys\n"
        "for name in ('matplotlib', 'tqdm', 'rich', 'tensorboard', 'sklearn', 'ray', 'sb3_contrib'): sys.modules[name] = None\n"
        "import synthselect_env, agents, agents.selectors, agents.evaluation.comparison, agents.report, agents.runs, synthselect_env.synthesis\n"
        "from synthselect_env import load_bank\n"
        "toy = load_bank('toy')\n"
        "try: agents.report.kept_and_discarded(toy, agents.selectors.SELECTORS['all']().select(toy, 0))\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'plots need matplotlib: pip install "synthselect[report]"'
