"""A cervical phantom: rendered images in the place of tissue.

The paper's cervical set is private, and no openly licensed one with CIN grades is known to us. These images follow a textbook
description of haematoxylin and eosin sections: squamous epithelium on stroma, graded by the height to which atypia reaches
(normal: none; CIN1: the lower third; CIN2: two thirds; CIN3: nearly all). They are drawings. Nothing that is measured on them says
anything about tissue, patients or diagnosis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.flaws import FLAWS_VERSION, FlawPlan, plan_flaws
from synthselect_env.data.images import RENDERERS, RenderedImages

GRADES = ("Normal", "CIN1", "CIN2", "CIN3")
HEIGHT, WIDTH = 256, 128
"""Of the paper's cervical patches, in pixels; the surface is at the top."""

COUNTS = (1284, 410, 481, 472)
"""Images of each grade in the paper's set."""

SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}
"""Of the images of each grade; the paper's split by patient."""

PATIENTS = {"train": 42, "valid": 30, "test": 60}
"""Of each part; the paper gives no number. A classifier that has seen the stain and the tissue of few patients takes what is theirs for
the grade, and candidates of others are worth adding for that. Figures are of more patients, with fewer images each."""

N_CANDIDATE_PATIENTS = 400
"""Whose images the candidates are: others than the real set's."""

CANDIDATE_FLAWS = {
    "wrong label": 0.3,
    "torn": 0.06,
    "blur and noise": 0.06,
    "wrong stain": 0.05,
    "near duplicate": 0.03,
}
"""Shares of a pool of which half is sound."""

VERSION = 2
"""Raised whenever the same arguments render differently, so that a stored recipe is not taken for another image's."""

REACH, REACH_SPREAD = (0.0, 0.30, 0.58, 0.90), (0.04, 0.11, 0.12, 0.10)
"""Height of the atypia as a share of the epithelium's, by grade: mean and standard deviation. Neighbouring grades overlap, as they do
between pathologists; the overlap sets what the best classifier can reach."""

STAIN_SPREAD, GAIN_SPREAD, NUCLEUS_SPREAD = 0.1, 0.4, 0.2
"""How patients differ, standard deviations: of the stains' optical densities, and of the logarithms of their amounts and of the size of nuclei."""

LEAST_DENSITY = 0.05
"""Of a stain in any colour; no stain makes glass brighter."""

GRADES_OF_A_PATIENT = 0.05
"""Concentration of the Dirichlet distribution of a patient's grades; at this one most patients have a single one."""

REACTIVE = 0.35
"""Share of normal images with reactive change: dense, dark nuclei low in the epithelium, but regular ones."""

GRID = 8
"""Pixels between the places where a nucleus may lie."""

REACH_OF_A_NUCLEUS = 8
"""Half the side of the square that a nucleus is drawn in, in pixels."""

HAEMATOXYLIN, EOSIN = (0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)
"""Optical densities in red, green and blue, the reference of Macenko et al. (2009)."""


@dataclass(frozen=True)
class Patient:
    """What the images of one patient share: stain, section, tissue.

    :param stains: optical densities of haematoxylin and eosin, (2, 3)
    :param gains: amounts of the two, (2,)
    :param nucleus: size of the nuclei, 1 on average
    :param basal: height of the basal layer as a share of the epithelium's
    :param inflammation: density of lymphocytes in the stroma, 0 to 1
    :param fibre: wavelength of the stroma's texture in pixels
    :param blur: of the scanner, standard deviation in pixels
    """

    stains: np.ndarray
    gains: np.ndarray
    nucleus: float
    basal: float
    inflammation: float
    fibre: float
    blur: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Patient:
        """A patient at random."""
        stains = np.maximum(
            np.array([HAEMATOXYLIN, EOSIN]) + rng.normal(0, STAIN_SPREAD, (2, 3)), LEAST_DENSITY
        )
        return cls(
            stains=stains / np.linalg.norm(stains, axis=1, keepdims=True),
            gains=np.exp(rng.normal(0, GAIN_SPREAD, 2)),
            nucleus=float(np.exp(rng.normal(0, NUCLEUS_SPREAD))),
            basal=rng.uniform(0.06, 0.2),
            inflammation=rng.beta(1.2, 3.0),
            fibre=rng.uniform(5, 14),
            blur=rng.uniform(0.3, 1.1),
        )


def render_phantom(grade: int, patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """Draw one image.

    :param grade: position in :data:`GRADES`
    :param patient: whose
    :param rng: everything else is drawn from it
    :return: uint8 (256, 128, 3)
    """
    x = np.arange(WIDTH)
    y = np.arange(HEIGHT)[:, None]
    # Geometry: the surface and the basement membrane are waves, tilted; depth is 0 at the membrane and 1 at the surface.
    thickness = rng.uniform(0.45, 0.8) * HEIGHT
    tilt = rng.normal(0, 0.12) * (x - WIDTH / 2)
    surface = rng.uniform(-0.06, 0.1) * HEIGHT + tilt + _wave(x, rng, 3.0)
    membrane = surface + thickness + _wave(x, rng, rng.uniform(2, 14))
    depth = (membrane - y) / (membrane - surface)  # (h, w)
    epithelium, lumen = depth > 0, depth > 1

    # How far up the nuclei are abnormal, and how much so.
    reach = np.clip(rng.normal(REACH[grade], REACH_SPREAD[grade]), 0, 1.1)
    severity = np.clip(rng.normal(0.75, 0.18), 0.3, 1.0)
    if grade == 0:
        reactive = rng.random() < REACTIVE
        reach, severity = (
            (rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.45)) if reactive else (reach, severity)
        )
    softness = rng.uniform(0.03, 0.1)

    # Nuclei: one place in each cell of a grid, kept with a probability that depends on the depth there.
    rows, columns = np.meshgrid(np.arange(HEIGHT // GRID), np.arange(WIDTH // GRID), indexing="ij")
    row = ((rows + rng.random(rows.shape)) * GRID).ravel()
    column = ((columns + rng.random(columns.shape)) * GRID).ravel()
    at = depth[row.astype(int), column.astype(int)]
    atypia = severity / _falling((at - reach) / softness) * (reach > 0.03)
    basal = 1 / _falling((at - patient.basal) / 0.03)
    maturity = np.clip(at, 0, 1)
    density = np.where(
        at > 0,
        np.maximum(0.8 * np.maximum(basal, atypia), 0.42 - 0.22 * maturity),
        0.12 + 0.75 * patient.inflammation,
    )
    kept = (rng.random(len(at)) < density) & (at < 0.98)
    row, column, at, atypia, basal, maturity = (
        values[kept] for values in (row, column, at, atypia, basal, maturity)
    )
    n, stroma = len(row), at <= 0
    lymphocyte = stroma & (rng.random(n) < 0.35 + 0.6 * patient.inflammation)
    radius = (
        2.3 + 0.5 * (1 - maturity) + 1.5 * atypia * np.exp(rng.normal(0, 0.35, n) * (0.3 + atypia))
    )
    radius = (
        np.where(stroma, np.where(lymphocyte, 1.9, 2.0), radius)
        * patient.nucleus
        * np.exp(rng.normal(0, 0.08, n))
    )
    stretch = 1 + 0.25 * basal + 1.1 * np.clip(at - 0.75, 0, 1) + 0.5 * atypia * rng.random(n)
    stretch = np.where(stroma, np.where(lymphocyte, 1.0, 2.4), stretch)
    upright = np.pi / 2 + rng.normal(
        0, 0.25 + 0.9 * atypia, n
    )  # basal nuclei stand, flattened and stromal ones lie
    angle = np.where(stroma | (at > 0.75), rng.normal(0, 0.3, n), upright)
    ink = 0.75 + 0.5 * basal + 0.75 * atypia + rng.normal(0, 0.12 + 0.15 * atypia, n)
    ink = np.where(stroma, np.where(lymphocyte, 1.5, 0.9), ink)
    haematoxylin = _stamp(
        row,
        column,
        radius * np.sqrt(stretch),
        radius / np.sqrt(stretch),
        angle,
        np.clip(ink, 0.3, 2.4),
    )

    # Cytoplasm and stroma: eosin, with a texture each; little of either stain in the lumen.
    cells, fibres = _noise(rng, 6, 6), _noise(rng, 4, patient.fibre * 2)
    up = np.clip(depth, 0, 1)
    plasm = 0.30 + 0.16 * up + 0.10 * cells - 0.1 * _noise(rng, 24, 24) * up
    matrix = 0.48 + 0.22 * fibres
    eosin = np.where(epithelium, plasm, matrix) * ~lumen
    haze = (
        np.where(epithelium, 0.10 + 0.10 * severity / _falling((up - reach) / softness), 0.05)
        * ~lumen
    )
    amounts = (
        np.stack([haematoxylin * ~lumen + haze, eosin], axis=-1)
        * patient.gains
        * np.exp(rng.normal(0, 0.06, 2))
    )
    picture = 255 * np.exp(-np.clip(amounts, 0, None) @ patient.stains) * rng.uniform(0.94, 1.0)
    smooth = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(patient.blur)
    )
    return np.clip(np.asarray(smooth) + rng.normal(0, 2.5, (HEIGHT, WIDTH, 1)), 0, 255).astype(
        np.uint8
    )


def _falling(x: np.ndarray) -> np.ndarray:
    """What to divide by for a smooth step from one down to zero at zero.  (…,) -> (…,)"""
    return 1 + np.exp(np.clip(x, -30, 30))


def _wave(x: np.ndarray, rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """A sum of three sines at random.  (w,) -> (w,)"""
    wavelengths, phases = WIDTH / rng.uniform(0.5, 3.5, 3), rng.uniform(0, 2 * np.pi, 3)
    return (
        amplitude
        * np.sin(2 * np.pi * x[:, None] / wavelengths + phases)
        @ (rng.dirichlet(np.ones(3)))
    )


def _noise(rng: np.random.Generator, tall: float, wide: float) -> np.ndarray:
    """Smooth noise with features of the given size in pixels, about -1 to 1.  (256, 128)"""
    shape = (max(int(WIDTH / wide), 2), max(int(HEIGHT / tall), 2))
    coarse = Image.fromarray(rng.normal(0, 0.5, shape[::-1]).astype(np.float32))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def _stamp(
    row: np.ndarray,
    column: np.ndarray,
    major: np.ndarray,
    minor: np.ndarray,
    angle: np.ndarray,
    ink: np.ndarray,
) -> np.ndarray:
    """Ellipses with soft edges; where they overlap, the darker one is seen.  (n,) each -> (256, 128)"""
    reach = REACH_OF_A_NUCLEUS
    offsets = np.arange(-reach, reach + 1)
    top, left = row.astype(int), column.astype(int)
    dy = offsets[None, :, None] - (row - top)[:, None, None]
    dx = offsets[None, None, :] - (column - left)[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    along, across = (
        (dx * cos + dy * sin) / major[:, None, None],
        (dy * cos - dx * sin) / minor[:, None, None],
    )
    distance = np.sqrt(along**2 + across**2)
    # a rim darker than the middle, and an edge a pixel wide
    shade = (
        ink[:, None, None]
        * (0.75 + 0.25 * np.clip(distance, 0, 1) ** 2)
        * np.clip((1.15 - distance) * minor[:, None, None], 0, 1)
    )
    canvas = np.zeros((HEIGHT + 2 * reach, WIDTH + 2 * reach))
    index = (
        (top[:, None, None] + reach + offsets[None, :, None]) * canvas.shape[1]
        + left[:, None, None]
        + reach
        + offsets[None, None, :]
    )
    np.maximum.at(canvas.ravel(), index.ravel(), shade.ravel())
    return canvas[reach:-reach, reach:-reach]


@dataclass(frozen=True)
class Cast:
    """Who is rendered: the grade of each image, and whose it is.

    :param grades: int64 (n,)
    :param patients: int64 (n,)
    :param seed: of the images
    """

    grades: np.ndarray
    patients: np.ndarray
    seed: int

    def render(self, positions: np.ndarray) -> np.ndarray:
        """Some of the images; each has a stream of its own.  (m,) -> uint8 (m, 256, 128, 3)"""
        people = {
            p: Patient.draw(np.random.default_rng((self.seed, 0, p)))
            for p in set(self.patients[positions].tolist())
        }
        return np.stack(
            [
                render_phantom(
                    int(self.grades[i]),
                    people[int(self.patients[i])],
                    np.random.default_rng((self.seed, 1, int(i))),
                )
                for i in positions
            ]
        )


def _people(
    counts: Sequence[int] | np.ndarray, n_patients: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Grades in order, and a patient for each, of so many who have mostly one grade.  int64 (n,) each"""
    mixtures = rng.dirichlet(
        np.full(len(GRADES), GRADES_OF_A_PATIENT), n_patients
    )  # (patients, grades)
    patients = [rng.choice(n_patients, n, p=p / p.sum()) for n, p in zip(counts, mixtures.T)]
    return np.repeat(np.arange(len(GRADES)), counts), np.concatenate(patients)


@lru_cache(maxsize=8)
def _real(seed: int) -> tuple[Cast, dict[str, np.ndarray]]:
    """The real set, and the positions of each part in it."""
    rng, everyone = np.random.default_rng(seed), np.array(COUNTS)
    counts = {part: np.round(everyone * share).astype(int) for part, share in SHARES.items()}
    counts["train"] = everyone - counts["valid"] - counts["test"]  # what rounding leaves
    grades, whose = zip(*(_people(counts[part], PATIENTS[part], rng) for part in SHARES))
    before = np.cumsum([0, *PATIENTS.values()])  # patients of the parts before
    everything = Cast(
        np.concatenate(grades), np.concatenate([n + w for n, w in zip(before, whose)]), seed
    )
    positions = np.split(
        np.arange(len(everything.grades)), np.cumsum([len(g) for g in grades])[:-1]
    )
    return everything, dict(zip(SHARES, positions))


@lru_cache(maxsize=8)
def _candidate_plan(
    per_class: int, flaws: tuple[tuple[str, float], ...], seed: int
) -> tuple[Cast, FlawPlan]:
    cast = Cast(
        *_people((per_class,) * len(GRADES), N_CANDIDATE_PATIENTS, np.random.default_rng(seed)),
        seed,
    )
    return cast, plan_flaws(cast.grades, len(GRADES), dict(flaws), seed)


def cervical_phantom(seed: int = 0) -> dict[str, Dataset]:
    """The phantom of the paper's cervical set: as many images of each grade, split 7:1:2 by patient.

    :param seed: of everything; another one is another hospital
    :return: "train", "valid" and "test"; images are rendered when they are asked for
    """
    cast, parts = _real(seed)
    groups = [f"patient-{p:03d}" for p in cast.patients]
    ids = tuple(f"{GRADES[g]}-{i:04d}" for i, g in enumerate(cast.grades))
    everything = Dataset.of_images(
        RenderedImages("cervical phantom", {"seed": seed, "version": VERSION}, np.arange(len(ids))),
        cast.grades,
        ids,
        GRADES,
        tuple(groups),
    )
    return {name: everything.subset(parts[name]) for name in SHARES}


def phantom_candidates(
    per_class: int = 1024, flaws: Mapping[str, float] = CANDIDATE_FLAWS, seed: int = 1
) -> Dataset:
    """Candidates of known truth: images of other patients, of which some are spoilt.

    :param per_class: images of each grade, before labels are spoilt
    :param flaws: name of a flaw to the share of the candidates that get it
    :param seed: of everything; not that of the real images
    """
    _, plan = _candidate_plan(per_class, tuple(flaws.items()), seed)
    pairs = [list(pair) for pair in flaws.items()]  # in their order, which counts
    recipe = {
        "per_class": per_class,
        "flaws": pairs,
        "seed": seed,
        "version": [VERSION, FLAWS_VERSION],
    }
    order = np.random.default_rng((seed, per_class)).permutation(
        len(plan.labels)
    )  # a position must not tell the grade
    images = RenderedImages("cervical phantom candidates", recipe, order)
    ids = tuple(f"candidate-{i:04d}" for i in range(len(order)))
    return Dataset.of_images(images, plan.labels[order], ids, GRADES, flaw=plan.flaw[order])


def _check_version(version: object, ours: object) -> None:
    if version != ours:
        raise ValueError(
            f"these pictures are of version {version} of the phantom, this release renders {ours}; build the bank again"
        )


def _render_real(positions: np.ndarray, seed: int, version: int) -> np.ndarray:
    _check_version(version, VERSION)
    return _real(seed)[0].render(positions)


def _render_candidates(
    positions: np.ndarray, per_class: int, flaws: list[list[Any]], seed: int, version: list[int]
) -> np.ndarray:
    _check_version(version, [VERSION, FLAWS_VERSION])
    cast, plan = _candidate_plan(per_class, tuple((name, share) for name, share in flaws), seed)
    return plan.spoil(positions, cast.render(plan.source[positions]))


RENDERERS["cervical phantom"] = _render_real
RENDERERS["cervical phantom candidates"] = _render_candidates
