"""Atomic file writes, and one cache on disk that is keyed by content."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import secrets
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

OUR_PACKAGES = ("synthselect_env", "agents")
"""Packages whose code is covered by :func:`library_digest` and by explicit versions."""

VERSION_DEPENDENT_FIELDS = ("ctx", "kind", "type_comment", "type_params")
"""Fields of a syntax tree that say nothing of the code."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` if nothing goes wrong.

    After an error the temporary file is removed and ``path`` is as it was.

    :param path: file to write; missing parent directories are created
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{unique}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(directory: str | Path) -> Iterator[None]:
    """Hold a directory for one process inside the block. A process that is killed holds nothing.

    Where the system has no file locks (Windows), nothing is checked.

    :param directory: directory, created if it is not there
    :raises ValueError: if another process holds it
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"{directory} is in use by another run; wait for it, or give another directory"
                ) from error
        yield


def content_key(*facts: object) -> str:
    """Return a SHA-256 key of JSON-able facts and numpy arrays.

    :param facts: values on which a result depends, nested as needed
    :raises TypeError: if a fact is neither JSON-able nor an array
    """
    text = json.dumps(facts, sort_keys=True, default=_array_digest)
    return hashlib.sha256(text.encode()).hexdigest()


def _array_digest(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a cache key cannot be made from a {type(value).__name__}")
    header = f"{value.dtype.str} {value.shape} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(value).tobytes()).hexdigest()


class Cache:
    """Named arrays on disk, one small file per key.

    :class:`~synthselect_env.evaluators.CachedEvaluator` keeps an evaluator's results in one.

    Several processes may share a directory, and any of them may be killed. An entry is either
    complete or missing.

    .. code-block:: python

        cache = Cache("runs/cache", version=1)
        key = content_key("squares", 3)
        if (entry := cache.get(key)) is None:
            entry = cache.put(key, values=np.arange(3) ** 2)

    :param directory: folder of the entries; created with the first one
    :param version: version of the computation. Raise it when equal keys should give other results
    """

    def __init__(self, directory: str | Path, version: int = 1) -> None:
        self.directory = Path(directory) / f"v{version}"

    def path(self, key: str) -> Path:
        """Return the file of a key, whether it exists or not."""
        return self.directory / key[:2] / f"{key[2:34]}.npz"

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """Return the arrays stored under a key, or None if there are none.

        A file that a power cut left damaged counts as missing.
        """
        try:
            with self.path(key).open("rb") as file, np.load(file) as arrays:
                return dict(arrays)
        except (FileNotFoundError, EOFError, ValueError, BadZipFile):
            return None

    def put(self, key: str, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Store arrays under a key and return them."""
        with atomic_write(self.path(key)) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
        return arrays


@cache
def library_digest() -> str:
    """Return a digest of the code of this library, without docstrings and comments.

    Keys results that are cheap enough to compute again after any change of the code.
    """
    content = hashlib.sha256()
    for package in OUR_PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(root).rglob("*.py")):
                name = f"{package}/{file.relative_to(root).as_posix()}"
                content.update(f"{name}\n{normal_form(file.read_text('utf-8'))}".encode())
    return content.hexdigest()


@cache
def class_digest(cls: type) -> str:
    """Return a digest of a class's name and of the code that a user wrote for it.

    Base classes are included. Functions that the class calls are not. Classes of this library, of
    Python and of torch count by name alone; their results are keyed by explicit versions.

    :param cls: class of an evaluator or a selector
    :raises NotImplementedError: if the source cannot be read, so that an edit would go unnoticed
    """
    content = hashlib.sha256()
    for base in cls.__mro__:
        content.update(f"{base.__module__}.{base.__qualname__}".encode())
        if base.__module__.split(".")[0] not in (*OUR_PACKAGES, "builtins", "abc", "torch"):
            content.update(normal_form(_class_source(base)).encode())
    return content.hexdigest()


def _class_source(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        pass  # a class defined in a notebook: only the source of its functions is known
    functions = [value for value in vars(cls).values() if inspect.isfunction(value)]
    try:
        return "\n".join(textwrap.dedent(inspect.getsource(function)) for function in functions)
    except (OSError, TypeError) as error:
        raise NotImplementedError(
            f"the source of {cls.__qualname__} cannot be read, so its results cannot be cached; "
            "define the class in a file"
        ) from error


def normal_form(source: str) -> str:
    """Return Python source without docstrings, comments and layout, as text.

    The text is the same on every Python version, and changes with the code alone.

    :param source: text of a module, a class or a function
    """
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # A string that stands alone is a docstring, of the block or of the constant above it.
            node.body = [statement for statement in node.body if not _is_string(statement)]
    return repr(_plain_tree(tree))


def _plain_tree(node: Any) -> Any:
    """Return a syntax tree as lists, without the fields that differ between Python versions."""
    if isinstance(node, list):
        return [_plain_tree(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = [
        [name, _plain_tree(value)]
        for name, value in ast.iter_fields(node)
        if name not in VERSION_DEPENDENT_FIELDS and value is not None and value != []
    ]
    return [type(node).__name__, *fields]


def _is_string(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
