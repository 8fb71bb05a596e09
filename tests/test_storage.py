"""Files are written whole or not at all, and cache keys follow code and content."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from synthselect_env import storage
from synthselect_env.evaluators import LinearProbeEvaluator
from synthselect_env.storage import (
    Cache,
    atomic_write,
    class_digest,
    content_key,
    library_digest,
    normal_form,
)


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


class TestAtomicWrite:
    def test_replaces_a_file_and_makes_its_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "file.txt"
        for text in ("first", "second"):
            with atomic_write(path) as temporary:
                assert temporary.suffix == ".txt" and temporary.parent == path.parent
                temporary.write_text(text)
            assert path.read_text() == text
        assert files_in(tmp_path) == [path]

    def test_keeps_the_former_file_after_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "file.txt"
        path.write_text("former")
        with pytest.raises(RuntimeError, match="stopped"), atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("stopped")
        assert path.read_text() == "former" and files_in(tmp_path) == [path]


class TestContentKey:
    def test_equal_facts_have_equal_keys(self) -> None:
        values = np.arange(6.0).reshape(2, 3)
        facts = {"a": 1, "b": [values, "x"]}
        # Neither the order of a dictionary nor an array's memory layout counts.
        same = {"b": [np.asfortranarray(values), "x"], "a": 1}
        assert content_key("name", facts) == content_key("name", same)

    @pytest.mark.parametrize(
        "other",
        [
            np.array([1.0, 2.5]),
            np.array([1.0, 2.0, 3.0]),
            np.array([[1.0, 2.0]]),
            np.array([1.0, 2.0], np.float32),
            [1.0, 2.0],
            None,
        ],
        ids=["value", "length", "shape", "type", "list", "none"],
    )
    def test_other_facts_have_other_keys(self, other: object) -> None:
        assert content_key(np.array([1.0, 2.0])) != content_key(other)

    def test_refuses_what_has_no_content(self) -> None:
        with pytest.raises(TypeError, match="a cache key cannot be made from a set"):
            content_key({1, 2})


class TestCache:
    def test_returns_what_was_put(self, tmp_path: Path) -> None:
        cache, key = Cache(tmp_path), content_key("squares", 3)
        assert cache.get(key) is None and not files_in(tmp_path)
        stored = cache.put(key, values=np.arange(3) ** 2, mask=np.eye(2, dtype=bool))
        found = Cache(tmp_path).get(key)
        assert found.keys() == stored.keys()
        for name, values in stored.items():
            assert np.array_equal(found[name], values) and found[name].dtype == values.dtype
        assert cache.get(content_key("squares", 4)) is None

    def test_other_versions_are_apart(self, tmp_path: Path) -> None:
        key = content_key("squares")
        Cache(tmp_path, version=1).put(key, values=np.ones(1))
        assert Cache(tmp_path, version=2).get(key) is None
        Cache(tmp_path, version=2).put(key, values=np.zeros(1))
        assert Cache(tmp_path, version=1).get(key)["values"] == 1

    @pytest.mark.parametrize("damage", ["emptied", "cut", "zeroed", "text"])
    def test_damaged_entry_counts_as_missing(self, tmp_path: Path, damage: str) -> None:
        cache, key = Cache(tmp_path), content_key("squares")
        cache.put(key, values=np.arange(1000))
        whole = cache.path(key).read_bytes()
        damaged = {
            "emptied": b"",
            "cut": whole[: len(whole) // 2],
            "zeroed": bytes(len(whole)),
            "text": b"no arrays",
        }
        cache.path(key).write_bytes(damaged[damage])
        assert cache.get(key) is None
        cache.put(key, values=np.arange(1000))
        assert np.array_equal(cache.get(key)["values"], np.arange(1000))

    def test_flipped_bytes_count_as_missing(self, tmp_path: Path) -> None:
        cache, key = Cache(tmp_path), content_key("squares")
        cache.put(key, values=np.arange(1000))
        content = bytearray(cache.path(key).read_bytes())
        content[len(content) // 2] ^= 0xFF
        cache.path(key).write_bytes(content)
        assert cache.get(key) is None

    def test_processes_share_a_directory(self, tmp_path: Path) -> None:
        """All write the same keys at once; each reads only complete entries."""
        command = [sys.executable, "-c", WRITE_AND_READ, storage.__file__, str(tmp_path)]
        workers = [subprocess.Popen(command) for _ in range(3)]
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
        assert len(files_in(tmp_path)) == 4  # no temporary file is left
        assert all(Cache(tmp_path).get(content_key(i)) is not None for i in range(4))


WRITE_AND_READ = """
import runpy, sys
import numpy as np
storage = runpy.run_path(sys.argv[1])  # alone, as the package would import torch
cache = storage["Cache"](sys.argv[2])
for turn in range(40):
    key = storage["content_key"](turn % 4)
    entry = cache.get(key)
    if entry is not None:
        assert (entry["values"] == turn % 4).all() and len(entry["values"]) == 5000
    cache.put(key, values=np.full(5000, turn % 4))
"""


SOURCE = '''
"""A module."""
from synthselect_env.evaluators import LinearProbeEvaluator

LIMIT = 3
"""A constant."""


class Mine(LinearProbeEvaluator):
    """A class."""

    def evaluate(self, selections, seed):
        """A method."""
        # A comment.
        text = "a text"
        return super().evaluate(selections, seed + 1)
'''

PROSE = [
    ('"""A module."""', '"""Another module."""'),
    ('"""A constant."""', '"""Another constant."""'),
    ('"""A class."""', ""),
    ('"""A method."""', '"""A method,\n\n        in many words.\n        """'),
    ("# A comment.", "# Another."),
    ("LIMIT = 3", "LIMIT   =   3"),
]
CODE = [
    ("LIMIT = 3", "LIMIT = 4"),
    ("seed + 1", "seed + 2"),
    ('"a text"', '"another text"'),
    ("(LinearProbeEvaluator)", "(LinearProbeEvaluator, object)"),
]


@pytest.mark.parametrize(("old", "new"), PROSE)
def test_prose_is_no_code(old: str, new: str) -> None:
    assert normal_form(SOURCE) == normal_form(SOURCE.replace(old, new))


@pytest.mark.parametrize(("old", "new"), CODE)
def test_code_is_code(old: str, new: str) -> None:
    assert normal_form(SOURCE) != normal_form(SOURCE.replace(old, new))


def test_code_of_nothing_but_a_docstring() -> None:
    documented = '    def f(x):\n        """Return x."""\n        return x'
    assert normal_form(documented) == normal_form("def f(x): return x")


def written(directory: Path, source: str) -> ModuleType:
    """A module ``users_module`` with this source."""
    path = directory / f"{content_key(source)[:8]}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("users_module", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestClassDigest:
    def digest(self, directory: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> str:
        module = written(directory, source)
        monkeypatch.setitem(sys.modules, "users_module", module)
        return class_digest(module.Mine)

    def test_follows_code_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        digest = self.digest(tmp_path, SOURCE, monkeypatch)
        prose = SOURCE.replace("A class", "One class").replace("A comment", "One comment")
        assert self.digest(tmp_path, prose, monkeypatch) == digest
        code = SOURCE.replace("seed + 1", "seed + 2")
        assert self.digest(tmp_path, code, monkeypatch) != digest
        renamed = SOURCE.replace("Mine", "Other") + "\n\nMine = Other\n"
        assert self.digest(tmp_path, renamed, monkeypatch) != digest

    def test_covers_base_classes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        derived = SOURCE.replace("Mine", "Base") + "\n\nclass Mine(Base):\n    pass\n"
        changed = derived.replace("seed + 1", "seed + 2")
        digests = {self.digest(tmp_path, s, monkeypatch) for s in (derived, changed)}
        assert len(digests) == 2

    def test_classes_of_the_library_count_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreadable(cls: type) -> str:
            raise AssertionError(f"the source of {cls} was read")

        monkeypatch.setattr(storage, "_class_source", unreadable)
        class_digest.cache_clear()
        assert class_digest(LinearProbeEvaluator) != class_digest(LinearProbeEvaluator.__base__)

    def test_refuses_a_class_without_source(self) -> None:
        space: dict[str, type] = {}
        exec("class Mine:\n    def evaluate(self): return 1", {"__name__": "nowhere"}, space)
        with pytest.raises(NotImplementedError, match="the source of Mine .* define the class in"):
            class_digest(space["Mine"])


class TestLibraryDigest:
    @pytest.fixture
    def digest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Callable[..., str]]:
        """Digest of a library of one module with a given source."""
        package = tmp_path / "small_library"
        (package / "part").mkdir(parents=True)
        for folder in (package, package / "part"):
            (folder / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(storage, "OUR_PACKAGES", ("small_library", "not_installed"))

        def of(source: str, name: str = "module.py") -> str:
            (package / "part" / name).write_text(source)
            library_digest.cache_clear()
            return library_digest()

        yield of
        library_digest.cache_clear()

    def test_follows_code_alone(self, digest: Callable[..., str]) -> None:
        first = digest(SOURCE)
        for old, new in PROSE:
            assert digest(SOURCE.replace(old, new)) == first
        for old, new in CODE:
            assert digest(SOURCE.replace(old, new)) != first
        assert digest(SOURCE) == first

    def test_follows_file_names(self, digest: Callable[..., str]) -> None:
        assert digest(SOURCE) != digest(SOURCE, "other.py")

    def test_knows_this_library(self) -> None:
        assert len(library_digest()) == 64
