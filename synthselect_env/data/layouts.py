"""Find out from their folders which split, class and patient images belong to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

SPLITS = {
    "train": ("train", "training", "tr"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names of a split's folder, in small letters."""

SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}

OF_SPLIT = re.compile(r"[ _-]?(set|data|images?|imgs?|split|cohort)$")
"""Ends of a split's folder, e.g. "training_set"."""

ROLES = ("split", "class", "patient")
"""Words in a layout that give a folder its meaning."""

LEAST_PATIENTS = 10
"""Folders below the classes from which they are taken for patients, and not for kinds of image."""

NUMBERED = re.compile(r"\d")
"""Names with a digit, which those of patients and batches have, and those of classes seldom."""


Cut = tuple[str | None, tuple[str, ...], tuple[str, ...]]
"""Split of an image, the folders above that of the split, and those below."""


@dataclass(frozen=True)
class Place:
    """Meaning of an image's folders.

    :param split: split; None where there is none
    :param label: class; None where no folder tells it
    :param patient: patient or slide; None where no folder tells it
    """

    split: str | None = None
    label: str | None = None
    patient: str | None = None


@dataclass(frozen=True)
class Layout:
    """Places of images, and what they were read from.

    :param places: place by file
    :param pattern: folders in words, e.g. "split/class"
    :param notes: sentences on what was left out or taken for granted
    """

    places: Mapping[str, Place]
    pattern: str
    notes: tuple[str, ...] = field(default=())


def natural_key(name: str) -> tuple[int, int, str]:
    """Return a key that sorts numbers by value, before names."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def canonical_split(name: str) -> str:
    """Return the usual name of a split: "Val" and "validation" are "valid"."""
    return SPLIT_OF.get(OF_SPLIT.sub("", name.lower()), name)


def is_split(name: str) -> bool:
    """Return whether a folder is named like a split."""
    return OF_SPLIT.sub("", name.lower()) in SPLIT_OF


def by_pattern(names: Sequence[str], pattern: str) -> Layout:
    """Read places as a user says.

    :param names: files with forward slashes
    :param pattern: folders from the top, e.g. "split/patient/class": a word of :data:`ROLES`, ``*``
        for any folder, ``**`` for any number of them
    :raises ValueError: if a word is unknown, or no file fits
    """
    parts = []
    for word in pattern.strip("/").split("/"):
        if word in ROLES:
            parts.append(f"(?P<{word}>[^/]+)/")
        elif word in ("*", "**"):
            parts.append("[^/]+/" if word == "*" else "(?:[^/]+/)*?")
        else:
            raise ValueError(
                f"layout {pattern!r}: {word!r} is none of {', '.join(ROLES)}, * and **"
            )
    try:
        fits = re.compile("".join(parts) + "[^/]+")
    except re.error as error:
        raise ValueError(f"layout {pattern!r} is not understood ({error})") from error
    places = {}
    for name in names:
        match = fits.fullmatch(name)
        if match:
            found = match.groupdict()
            split = found.get("split")
            places[name] = Place(
                canonical_split(split) if split else None, found.get("class"), found.get("patient")
            )
    if not places:
        example = f" (first: {names[0]})" if names else ""
        raise ValueError(f"layout {pattern!r} fits none of {len(names)} files{example}")
    return Layout(places, pattern, _left_out(len(names) - len(places), f"outside {pattern}"))


def find_layout(
    names: Sequence[str],
    same: Callable[[str, str], bool],
    classes: Sequence[str] = (),
    split: str = "",
) -> Layout:
    """Find the places of images from the names of their folders.

    A folder named like a split is one. The classes are the topmost folders that differ, or those
    further down that recur under most of these: ``patient/class``.

    :param names: images with forward slashes
    :param same: whether two files have the same content, by which copies of a whole tree are told
    :param classes: names of the classes, if they are known
    :param split: name of a split that is no usual one
    :raises ValueError: if it could be one way or another
    """
    notes: list[str] = []
    # Take the split's folder out of each path.
    cut: dict[str, Cut] = {}
    for name in names:
        folders = tuple(name.split("/")[:-1])
        at = next((i for i, f in enumerate(folders) if f == split or is_split(f)), None)
        if at is None:
            cut[name] = None, (), folders
        else:
            cut[name] = canonical_split(folders[at]), folders[:at], folders[at + 1 :]
    has_splits = any(found is not None for found, _, _ in cut.values())
    if has_splits:
        outside = [name for name, (found, _, _) in cut.items() if found is None]
        notes += _left_out(len(outside), "outside the folders of the splits")
        cut = {name: value for name, value in cut.items() if value[0] is not None}
        if any(rest for _, _, rest in cut.values()):
            cut, copies = _without_copies(cut, same)
            notes += copies
        else:  # class/split
            cut = {name: (found, (), above) for name, (found, above, _) in cut.items()}

    # Find the level of the classes, and that of the patients.
    below = {name: rest for name, (_, _, rest) in cut.items() if rest}
    above = _shared_folders(list(below.values()), classes)
    below = {name: rest[above:] for name, rest in below.items() if len(rest) > above}
    notes += _left_out(len(cut) - len(below), "in no class folder") if below else []
    if not below:
        none = {name: Place(found) for name, (found, _, _) in cut.items()}
        return Layout(none, "split" if has_splits else "one folder", tuple(notes))
    level, patients = _levels(list(below.values()), classes)
    places = {}
    for name, rest in below.items():
        patient = rest[patients] if patients is not None and len(rest) > patients else None
        label = rest[level] if len(rest) > level else None
        if label is not None:
            places[name] = Place(cut[name][0], label, patient)
    notes += _left_out(len(below) - len(places), "in no class folder")
    deepest = max(map(len, below.values()))
    words = ["*"] * above
    words += [
        "class" if i == level else "patient" if i == patients else "*" for i in range(deepest)
    ]
    last = max(level, patients or 0)
    shown = words[: above + last + 1] + ["…"] * (deepest > last + 1)
    pattern = "/".join(["split"] * has_splits + shown)
    return Layout(places, pattern, tuple(notes))


def _shared_folders(folders: Sequence[tuple[str, ...]], classes: Sequence[str]) -> int:
    """Return the number of folders above the classes that all images share."""
    shared = 0
    while folders and all(len(f) > shared for f in folders):
        names = {f[shared] for f in folders}
        deeper = any(len(f) > shared + 1 for f in folders)
        if len(names) > 1 or names <= set(classes) or not deeper:
            break
        shared += 1
    return shared


def _left_out(count: int, where: str) -> tuple[str, ...]:
    return (f"{count} images {where} are left out",) if count else ()


def _without_copies(
    cut: dict[str, Cut], same: Callable[[str, str], bool]
) -> tuple[dict[str, Cut], list[str]]:
    """Leave out trees of splits that hold the same files as another one above them."""
    trees: dict[tuple[str, ...], dict[str, str]] = {}
    for name, (found, above, rest) in cut.items():
        key = "/".join([str(found), *rest, name.split("/")[-1]])
        trees.setdefault(above, {})[key] = name
    order = sorted(trees, key=lambda above: (len(above), above))
    first, notes = order[0], []
    for other in order[1:]:
        shared = trees[first].keys() & trees[other].keys()
        equal = [k for k in shared if same(trees[first][k], trees[other][k])]
        if len(equal) == len(trees[other]):
            notes.append(f"{'/'.join(other)} holds copies of {'/'.join(first)} and is left out")
            for name in trees[other].values():
                del cut[name]
        elif shared:
            places = ", ".join("/".join([*above, "…"]) for above in order[:3])
            raise ValueError(f"there are splits under {places}; give a path to one of them")
    return cut, notes


def _levels(folders: Sequence[tuple[str, ...]], classes: Sequence[str]) -> tuple[int, int | None]:
    """Return the level of the class folders, and of the patients' if there are any.

    :param folders: folders of each image, below the split
    :param classes: names of the classes, if they are known
    """
    shallowest, deepest = min(map(len, folders)), max(map(len, folders))
    names = [{f[i] for f in folders if len(f) > i} for i in range(deepest)]
    fitting = (i for i in range(deepest) if names[i] <= set(classes))
    level = next(fitting, None)
    varied = [i for i in range(shallowest) if len(names[i]) > 1]
    above = None
    if level is None:
        level = varied[0] if varied else shallowest - 1
        for lower in varied[1:]:
            if not _recurs(folders, level, lower):
                continue
            if _more_like_classes(names[lower], names[level]):
                level, above = lower, level
                break
    elif varied and varied[0] < level and _recurs(folders, varied[0], level):
        above = varied[0]
    return level, above if above is not None else _patients_below(folders, level)


def _recurs(folders: Sequence[tuple[str, ...]], upper: int, lower: int) -> bool:
    """Return whether most names of the lower level are found under several of the upper one."""
    under: dict[str, set[str]] = {}
    for f in folders:
        if len(f) > lower:
            under.setdefault(f[lower], set()).add(f[upper])
    several = sum(len(parents) > 1 for parents in under.values())
    return several * 2 > len(under)


def _more_like_classes(lower: set[str], upper: set[str]) -> bool:
    """Return whether the lower of two levels, whose names recur, holds the classes.

    :raises ValueError: if it could be either
    """
    if _counts_from_zero(lower) != _counts_from_zero(upper):
        return _counts_from_zero(lower)
    numbered = [all(NUMBERED.search(name) for name in level) for level in (lower, upper)]
    if numbered[0] != numbered[1]:
        return numbered[1]  # many numbered patients, few named classes, or the other way round
    if len(lower) < len(upper):
        return True
    shown = [", ".join(sorted(level)[:3]) for level in (upper, lower)]
    raise ValueError(
        f"the classes may be the folders {shown[0]} or those below, {shown[1]}; give a layout, "
        "e.g. class/* or patient/class"
    )


def _counts_from_zero(names: set[str]) -> bool:
    return names == {str(i) for i in range(len(names))}


def _patients_below(folders: Sequence[tuple[str, ...]], level: int) -> int | None:
    """Return the level of the patients' folders below the classes, if there are any.

    A patient's folder is found in one class, and there are many of them.
    """
    best, most = None, LEAST_PATIENTS - 1
    for lower in range(level + 1, min(map(len, folders))):
        names = {f[lower] for f in folders}
        numbered = all(NUMBERED.search(name) for name in names)
        if most < len(names) < len(folders) and (numbered or not _recurs(folders, level, lower)):
            best, most = lower, len(names)
    return best
