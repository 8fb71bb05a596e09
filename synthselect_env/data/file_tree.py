"""Files of a directory or a zip archive, by their paths within it."""

from __future__ import annotations

import os
import stat
import threading
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

READABLE_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
"""Compression methods that Python reads. Windows takes another one for files above 2 GB."""

ENCRYPTED = 0x1
"""Bit of a zip entry's flags."""


class FileTree(ABC):
    """Files of a directory or a zip archive.

    Systems compose umlauts of one character or two. Names are normalised to one.

    :param path: directory or zip
    :param written: name of each file as it is written, with forward slashes
    :raises ValueError: if two names differ in how letters are composed only
    """

    def __init__(self, path: Path, written: Iterable[str]) -> None:
        self.path = path
        self.written: dict[str, str] = {}
        for name in sorted(written):
            normalised = unicodedata.normalize("NFC", name.replace("\\", "/"))
            if normalised in self.written:
                raise ValueError(
                    f"{path}: there are two files {name!r}, whose names differ in how their "
                    "letters are composed; rename one"
                )
            self.written[normalised] = name

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files, sorted."""
        return tuple(sorted(self.written))

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file.

        :raises ValueError: if it cannot be read
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""


class Directory(FileTree):
    """Files of a directory, in which links are followed.

    :param path: directory
    :raises ValueError: if links lead nowhere; all are named
    """

    def __init__(self, path: Path) -> None:
        written, dangling = [], []
        above: dict[str, frozenset[int]] = {}
        for folder, subfolders, names in os.walk(path, followlinks=True):
            number, others = os.stat(folder).st_ino, above.get(os.path.dirname(folder), frozenset())
            if number in others:  # a link to a folder above
                subfolders.clear()
                continue
            above[folder] = others | {number}
            relative = Path(folder).relative_to(path)
            for name in names:
                file = (relative / name).as_posix()
                try:
                    if stat.S_ISREG(os.stat(path / file).st_mode):
                        written.append(file)
                except OSError:
                    dangling.append(file)
        if dangling:
            listed = ", ".join(sorted(dangling)[:5]) + (" …" if len(dangling) > 5 else "")
            raise ValueError(
                f"{path}: {len(dangling)} links lead nowhere ({listed}); bring the files back, or "
                "delete the links"
            )
        super().__init__(path, written)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        try:
            return (self.path / self.written[name]).read_bytes()
        except OSError as error:
            raise ValueError(error.strerror or str(error)) from error

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return os.stat(self.path / self.written[name]).st_size


class Zip(FileTree):
    """Files of a zip archive. It is opened once per process.

    :param path: archive
    :raises ValueError: if it is no zip, or holds files that cannot be unpacked
    """

    def __init__(self, path: Path) -> None:
        self._open(path)
        entries = [entry for entry in self._archive.infolist() if not entry.is_dir()]
        for unreadable, why, remedy in (
            ([e for e in entries if e.flag_bits & ENCRYPTED], "are encrypted", "unpack it"),
            (
                [e for e in entries if e.compress_type not in READABLE_METHODS],
                "are packed by a method that Python cannot read, such as Deflate64 of Windows",
                "unpack it, or pack it by another program",
            ),
        ):
            if unreadable:
                raise ValueError(
                    f"{path}: {len(unreadable)} of {len(entries)} files {why} "
                    f"(first: {unreadable[0].filename}); {remedy}"
                )
        super().__init__(path, (entry.filename for entry in entries))

    def _open(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(
                f"{path} is neither a directory nor a readable zip ({error})"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "written": self.written}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(self.path)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        try:
            with self._lock:
                return self._archive.read(self.written[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise ValueError(f"damaged in {self.path.name}: {error}") from error

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return self._archive.getinfo(self.written[name]).file_size


def open_tree(path: str | Path) -> FileTree:
    """Return the files of a directory or zip.

    :param path: directory or zip
    :raises FileNotFoundError: if the path does not exist
    :raises ValueError: if it is neither, or holds files that cannot be read at all
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give a directory of images or a zip of one"
        )
    return Directory(path) if path.is_dir() else Zip(path)


class FileContents:
    """Contents of files of a tree, read when they are asked for.

    :param tree: files
    :param names: name of each file to read
    """

    def __init__(self, tree: FileTree, names: Sequence[str]) -> None:
        self.tree = tree
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> bytes:
        return self.tree.read(self.names[position])
