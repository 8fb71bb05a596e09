"""What is remembered on disk: written whole or not at all, and under a name that changes with the code that made it."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it to ``path`` at the end, or remove it after an error.

    :param path: the file to write; its directory is made when missing
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


OUR_PACKAGES = ("synthselect_env", "agents")
"""Whose code changes with their release number."""


@cache
def library_digest() -> str:
    """A name for the source of this library's packages, to key caches by that are made again sooner than one can tell what an edit changed."""
    content = hashlib.sha256()
    for package in OUR_PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(root).rglob("*.py")):
                content.update(f"{package} {file.relative_to(root).as_posix()} ".encode() + file.read_bytes())
    return content.hexdigest()


def library_version() -> str:
    """The release, to key caches by; where the packages are only on the path, which have none, a name for their source."""
    try:
        return version("synthselect")
    except PackageNotFoundError:
        return library_digest()


@cache
def code_digest(kind: type) -> str:
    """A name for a class of the user's own, to key caches by: its module and name, and the source of it and of its bases.

    What a class calls beside itself is not followed. The classes of this library, Python's and torch's go by their names alone.

    :param kind: the class
    :raises NotImplementedError: when its source cannot be read, so that nobody can tell whether it was edited
    """
    content = hashlib.sha256()
    for base in kind.__mro__:
        content.update(f"{base.__module__}.{base.__qualname__}".encode())
        if base.__module__.split(".")[0] in (*OUR_PACKAGES, "builtins", "abc", "torch"):
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # of a class in a notebook, only its functions' source is known
            functions = [f for f in vars(base).values() if inspect.isfunction(f)]
            try:
                source = "".join(map(inspect.getsource, functions))
            except (OSError, TypeError) as error:
                raise NotImplementedError(
                    f"the source of {base.__qualname__} cannot be read; define it in a file, so that what it answered can be remembered"
                ) from error
        content.update(source.encode())
    return content.hexdigest()
