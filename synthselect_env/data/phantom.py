"""A cervical phantom: rendered images in the place of tissue.

The paper's cervical set is private, and we know of no openly licensed one with CIN grades. These
images follow a textbook description of haematoxylin and eosin sections: squamous epithelium on
stroma, graded by the height to which atypia reaches (normal: none; CIN1: the lower third; CIN2: two
thirds; CIN3: nearly all). They are drawings. Nothing that is measured on them says anything about
tissue, patients or diagnosis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageFilter

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.flaws import FLAWS_VERSION, FlawPlan, plan_flaws
from synthselect_env.data.images import RENDERERS, RenderedImages, to_uint8

VERSION = 2
"""Version of the phantom. Raise it when the same arguments render other images than before.

A stored recipe is then not taken for that of another image.
"""

# What the sets consist of.

GRADES = ("Normal", "CIN1", "CIN2", "CIN3")
"""Class names, in label order."""

COUNTS = (1284, 410, 481, 472)
"""Images of each grade in the paper's set."""

SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}
"""Share of each part in the images of each grade, as in the paper, which splits by patient."""

PATIENTS = {"train": 42, "valid": 30, "test": 60}
"""Patients of each part; the paper gives no number.

A classifier that has seen few patients takes their stain and tissue for the grade. Candidates of
other patients are worth adding for that. Metrics are of more patients, with fewer images each.
"""

GRADE_CONCENTRATION = 0.05
"""Concentration of the Dirichlet distribution of a patient's grades. Most have one grade."""

CANDIDATE_PATIENTS = 400
"""Patients of the candidates. None is in the real set."""

CANDIDATE_FLAWS = {
    "wrong label": 0.3,
    "torn": 0.06,
    "blur and noise": 0.06,
    "wrong stain": 0.05,
    "near duplicate": 0.03,
}
"""Shares of the flaws in a pool of which half is sound."""

# How patients differ.

HAEMATOXYLIN = (0.5626, 0.7201, 0.4062)
EOSIN = (0.2159, 0.8012, 0.5581)
"""Optical densities in red, green and blue, the reference of Macenko et al. (2009)."""

STAIN_SPREAD = 0.1
"""Standard deviation of the stains' optical densities."""

MIN_DENSITY = 0.05
"""Least optical density of a stain in any colour. No stain makes glass brighter."""

GAIN_SPREAD = 0.4
"""Standard deviation of the logarithm of the amounts of stain."""

NUCLEUS_SPREAD = 0.2
"""Standard deviation of the logarithm of the size of nuclei."""

# How an image is drawn.

HEIGHT, WIDTH = 256, 128
"""Size of the paper's cervical patches, in pixels. The surface is at the top."""

REACH = (0.0, 0.30, 0.58, 0.90)
"""Mean height of the atypia by grade, as a share of the epithelium's."""

REACH_SPREAD = (0.04, 0.11, 0.12, 0.10)
"""Standard deviation of that height by grade.

Neighbouring grades overlap, as they do between pathologists. The overlap limits any classifier.
"""

MIN_REACH = 0.03
"""Height of the atypia below which there is none."""

REACTIVE_SHARE = 0.35
"""Share of normal images with reactive change: nuclei that are dense, dark and low, but regular."""

NUCLEUS_SPACING = 8
"""Size in pixels of the cells of a grid that have room for one nucleus each."""

NUCLEUS_REACH = 8
"""Half the side in pixels of the square that a nucleus is drawn in."""


@dataclass(frozen=True)
class Patient:
    """Stain, section and tissue that the images of one patient share.

    .. code-block:: python

        rng = default_rng(0)
        image = render_phantom(grade=3, patient=Patient.draw(rng), rng=rng)

    :param stains: optical densities of haematoxylin and eosin (2, 3)
    :param gains: amounts of the two (2,)
    :param nucleus: size of the nuclei, 1 on average
    :param basal: height of the basal layer as a share of the epithelium's
    :param inflammation: density of lymphocytes in the stroma, 0 to 1
    :param fibre: wavelength of the stroma's texture in pixels
    :param blur: standard deviation of the scanner's blur in pixels
    """

    stains: np.ndarray
    gains: np.ndarray
    nucleus: float
    basal: float
    inflammation: float
    fibre: float
    blur: float

    @classmethod
    def draw(cls, rng: Generator) -> Patient:
        """Draw a patient at random."""
        reference = np.array([HAEMATOXYLIN, EOSIN])
        deviation = rng.normal(0, STAIN_SPREAD, (2, 3))
        stains = np.maximum(reference + deviation, MIN_DENSITY)
        norms = np.linalg.norm(stains, axis=1, keepdims=True)
        log_gains = rng.normal(0, GAIN_SPREAD, 2)
        log_nucleus = rng.normal(0, NUCLEUS_SPREAD)
        return cls(
            stains=stains / norms,
            gains=np.exp(log_gains),
            nucleus=float(np.exp(log_nucleus)),
            basal=rng.uniform(0.06, 0.2),
            inflammation=rng.beta(1.2, 3.0),
            fibre=rng.uniform(5, 14),
            blur=rng.uniform(0.3, 1.1),
        )


@dataclass(frozen=True)
class Atypia:
    """Extent of the abnormal nuclei in one image.

    :param reach: height that they reach, as a share of the epithelium's
    :param severity: strength of the change, 0 to 1
    :param softness: width of the transition above
    """

    reach: float
    severity: float
    softness: float

    def falling(self, depth: np.ndarray) -> np.ndarray:
        """Return the divisor that lets the severity fall off above the reach.  (…,) -> (…,)"""
        return _falling((depth - self.reach) / self.softness)


@dataclass(frozen=True)
class Places:
    """Positions of n nuclei, and what the tissue is like there. All are float (n,).

    :param row: position in pixels from the top
    :param column: position in pixels from the left
    :param depth: 0 at the basement membrane and 1 at the surface, negative in the stroma
    :param atypia: strength of the change, 0 to 1
    :param basal: membership of the basal layer, 0 to 1
    """

    row: np.ndarray
    column: np.ndarray
    depth: np.ndarray
    atypia: np.ndarray
    basal: np.ndarray

    @property
    def maturity(self) -> np.ndarray:
        """Depth within the epithelium, 0 to 1.  (n,)"""
        return np.clip(self.depth, 0, 1)

    def subset(self, mask: np.ndarray) -> Places:
        """Return the places where a mask is set.  bool (n,)"""
        return Places(
            row=self.row[mask],
            column=self.column[mask],
            depth=self.depth[mask],
            atypia=self.atypia[mask],
            basal=self.basal[mask],
        )


@dataclass(frozen=True)
class Nuclei:
    """Ellipses in the place of n nuclei. All are float (n,).

    :param row: centre in pixels from the top
    :param column: centre in pixels from the left
    :param major: first radius in pixels
    :param minor: second radius in pixels
    :param angle: angle of the first radius to the horizontal
    :param ink: darkness
    """

    row: np.ndarray
    column: np.ndarray
    major: np.ndarray
    minor: np.ndarray
    angle: np.ndarray
    ink: np.ndarray


def render_phantom(grade: int, patient: Patient, rng: Generator) -> np.ndarray:
    """Draw one image.

    :param grade: position in :data:`GRADES`
    :param patient: patient whose tissue is drawn
    :param rng: random generator of everything else
    :return: uint8 (256, 128, 3)
    """
    depth = _draw_depth(rng)
    atypia = _draw_atypia(grade, rng)
    places = _place_nuclei(depth, atypia, patient, rng)
    nuclei = _draw_nuclei(places, patient, rng)
    ink = _stamp(nuclei)
    amounts = _stain_amounts(depth, ink, atypia, patient, rng)
    return _scan(amounts, patient, rng)


def _draw_depth(rng: Generator) -> np.ndarray:
    """Draw the depth of each pixel in the tissue.  (h, w)

    It is 0 at the basement membrane and 1 at the surface. Both are waves, tilted together.
    """
    x = np.arange(WIDTH)
    y = np.arange(HEIGHT)[:, None]
    thickness = rng.uniform(0.45, 0.8) * HEIGHT
    tilt = rng.normal(0, 0.12) * (x - WIDTH / 2)
    level = rng.uniform(-0.06, 0.1) * HEIGHT
    surface = level + tilt + _wave(3.0, rng)
    roughness = rng.uniform(2, 14)
    membrane = surface + thickness + _wave(roughness, rng)
    return (membrane - y) / (membrane - surface)


def _draw_atypia(grade: int, rng: Generator) -> Atypia:
    reach = rng.normal(REACH[grade], REACH_SPREAD[grade])
    severity = rng.normal(0.75, 0.18)
    if grade == 0 and rng.random() < REACTIVE_SHARE:
        reach = rng.uniform(0.1, 0.5)
        severity = rng.uniform(0.2, 0.45)
    else:
        reach = np.clip(reach, 0, 1.1)
        severity = np.clip(severity, 0.3, 1.0)
    softness = rng.uniform(0.03, 0.1)
    return Atypia(reach, severity, softness)


def _place_nuclei(
    depth: np.ndarray,
    atypia: Atypia,
    patient: Patient,
    rng: Generator,
) -> Places:
    """Draw one place per cell of a grid, and keep some of them.

    The probability to be kept depends on the tissue there.
    """
    # A random point in each cell.
    shape = (HEIGHT // NUCLEUS_SPACING, WIDTH // NUCLEUS_SPACING)
    cell_rows, cell_columns = np.indices(shape).reshape(2, -1)
    n = len(cell_rows)
    row = (cell_rows + rng.random(n)) * NUCLEUS_SPACING
    column = (cell_columns + rng.random(n)) * NUCLEUS_SPACING

    # The tissue there.
    at = depth[row.astype(int), column.astype(int)]
    is_atypical = atypia.reach > MIN_REACH
    strength = atypia.severity / atypia.falling(at) * is_atypical
    basal = 1 / _falling((at - patient.basal) / 0.03)
    places = Places(row, column, at, strength, basal)

    # Crowded near the membrane and where atypical, sparse near the surface, none in the lumen.
    crowded = 0.8 * np.maximum(basal, strength)
    sparse = 0.42 - 0.22 * places.maturity
    in_epithelium = np.maximum(crowded, sparse)
    in_stroma = 0.12 + 0.75 * patient.inflammation
    density = np.where(at > 0, in_epithelium, in_stroma)
    is_nucleus = rng.random(n) < density
    return places.subset(is_nucleus & (at < 0.98))


def _draw_nuclei(places: Places, patient: Patient, rng: Generator) -> Nuclei:
    """Draw size, shape, direction and darkness of the nuclei."""
    n = len(places.row)
    depth = places.depth
    atypia = places.atypia
    is_stroma = depth <= 0
    lymphocyte_share = 0.35 + 0.6 * patient.inflammation
    is_lymphocyte = is_stroma & (rng.random(n) < lymphocyte_share)

    def by_kind(epithelium: np.ndarray, lymphocyte: float, fibroblast: float) -> np.ndarray:
        stroma = np.where(is_lymphocyte, lymphocyte, fibroblast)
        return np.where(is_stroma, stroma, epithelium)

    # Size: atypical nuclei are large, and differ.
    log_pleomorphism = rng.normal(0, 0.35, n) * (0.3 + atypia)
    pleomorphism = np.exp(log_pleomorphism)
    radius = 2.3 + 0.5 * (1 - places.maturity)
    radius = radius + 1.5 * atypia * pleomorphism
    radius = by_kind(radius, lymphocyte=1.9, fibroblast=2.0)
    log_variation = rng.normal(0, 0.08, n)
    radius = radius * patient.nucleus * np.exp(log_variation)

    # Shape: round, but stretched where basal, flattened, atypical, or of a fibroblast.
    flattening = np.clip(depth - 0.75, 0, 1)
    stretch = 1 + 0.25 * places.basal + 1.1 * flattening
    stretch = stretch + 0.5 * atypia * rng.random(n)
    stretch = by_kind(stretch, lymphocyte=1.0, fibroblast=2.4)
    stretch = np.sqrt(stretch)

    # Direction: basal nuclei stand, flattened ones and those in the stroma lie.
    standing_spread = 0.25 + 0.9 * atypia
    standing = np.pi / 2 + rng.normal(0, standing_spread, n)
    lying = rng.normal(0, 0.3, n)
    lies = is_stroma | (depth > 0.75)
    angle = np.where(lies, lying, standing)

    # Ink: atypical nuclei are dark, and differ.
    ink_spread = 0.12 + 0.15 * atypia
    ink = 0.75 + 0.5 * places.basal + 0.75 * atypia
    ink = ink + rng.normal(0, ink_spread, n)
    ink = by_kind(ink, lymphocyte=1.5, fibroblast=0.9)
    return Nuclei(
        row=places.row,
        column=places.column,
        major=radius * stretch,
        minor=radius / stretch,
        angle=angle,
        ink=np.clip(ink, 0.3, 2.4),
    )


def _stain_amounts(
    depth: np.ndarray,
    ink: np.ndarray,
    atypia: Atypia,
    patient: Patient,
    rng: Generator,
) -> np.ndarray:
    """Return the amounts of haematoxylin and eosin in each pixel.  (h, w, 2)

    Cytoplasm and stroma have a texture each. The lumen has no stain.
    """
    epithelium = depth > 0
    tissue = ~(depth > 1)
    height = np.clip(depth, 0, 1)

    # Eosin.
    cells = _noise(rng, 6, 6)
    fibres = _noise(rng, 4, patient.fibre * 2)
    patches = _noise(rng, 24, 24)
    cytoplasm = 0.30 + 0.16 * height + 0.10 * cells
    cytoplasm = cytoplasm - 0.1 * patches * height
    matrix = 0.48 + 0.22 * fibres
    eosin = np.where(epithelium, cytoplasm, matrix) * tissue

    # Haematoxylin: nuclei, and a haze that is darker where cells are atypical.
    atypical_haze = 0.10 + 0.10 * atypia.severity / atypia.falling(height)
    haze = np.where(epithelium, atypical_haze, 0.05) * tissue
    haematoxylin = ink * tissue + haze

    amounts = np.stack([haematoxylin, eosin], axis=-1)
    log_variation = rng.normal(0, 0.06, 2)
    return amounts * patient.gains * np.exp(log_variation)


def _scan(amounts: np.ndarray, patient: Patient, rng: Generator) -> np.ndarray:
    """Turn amounts of stain into pixels, as a scanner does.

    :param amounts: (h, w, 2)
    :return: uint8 (h, w, 3)
    """
    density = np.clip(amounts, 0, None) @ patient.stains  # (h, w, 3)
    lamp = rng.uniform(0.94, 1.0)
    light = 255 * np.exp(-density) * lamp
    sharp = Image.fromarray(to_uint8(light))
    blur = ImageFilter.GaussianBlur(patient.blur)
    blurred = np.asarray(sharp.filter(blur))
    noise = rng.normal(0, 2.5, (HEIGHT, WIDTH, 1))
    return to_uint8(blurred + noise)


def _falling(x: np.ndarray) -> np.ndarray:
    """Return the divisor of a smooth step down at zero.  (…,) -> (…,)"""
    return 1 + np.exp(np.clip(x, -30, 30))


def _wave(amplitude: float, rng: Generator) -> np.ndarray:
    """Draw a random sum of three sines.  (w,)"""
    x = np.arange(WIDTH)[:, None]
    wavelengths = WIDTH / rng.uniform(0.5, 3.5, 3)
    phases = rng.uniform(0, 2 * np.pi, 3)
    angles = 2 * np.pi * x / wavelengths + phases  # (w, 3)
    sines = amplitude * np.sin(angles)
    weights = rng.dirichlet(np.ones(3))
    return sines @ weights


def _noise(rng: Generator, tall: float, wide: float) -> np.ndarray:
    """Draw smooth noise with features of the given size in pixels.  (h, w)"""
    rows = max(int(HEIGHT / tall), 2)
    columns = max(int(WIDTH / wide), 2)
    values = rng.normal(0, 0.5, (rows, columns))
    coarse = Image.fromarray(values.astype(np.float32))
    smooth = coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


def _stamp(nuclei: Nuclei) -> np.ndarray:
    """Draw nuclei with soft edges. The darkest one is seen where they overlap.  (h, w)"""
    # A square of pixels around each centre.
    reach = NUCLEUS_REACH
    right = np.arange(-reach, reach + 1)  # (s,)
    down = right[:, None]  # (s, 1)
    row = _per_square(nuclei.row)
    column = _per_square(nuclei.column)
    top = row.astype(int)
    left = column.astype(int)
    dy = down - (row - top)  # (n, s, 1)
    dx = right - (column - left)  # (n, 1, s)

    # Distance from the centre, 1 at the outline.  (n, s, s)
    major = _per_square(nuclei.major)
    minor = _per_square(nuclei.minor)
    angle = _per_square(nuclei.angle)
    cos = np.cos(angle)
    sin = np.sin(angle)
    along = (dx * cos + dy * sin) / major
    across = (dy * cos - dx * sin) / minor
    distance = np.sqrt(along**2 + across**2)

    # A rim darker than the middle, and an edge one pixel wide.
    rim = 0.75 + 0.25 * np.clip(distance, 0, 1) ** 2
    edge = np.clip((1.15 - distance) * minor, 0, 1)
    shade = _per_square(nuclei.ink) * rim * edge

    # Stamp the squares on a canvas with a margin.
    canvas = np.zeros((HEIGHT + 2 * reach, WIDTH + 2 * reach))
    rows = top + reach + down
    columns = left + reach + right
    index = rows * canvas.shape[1] + columns
    np.maximum.at(canvas.ravel(), index.ravel(), shade.ravel())
    return canvas[reach:-reach, reach:-reach]


def _per_square(values: np.ndarray) -> np.ndarray:
    """Return one value per square of pixels.  (n,) -> (n, 1, 1)"""
    return values[:, None, None]


@dataclass(frozen=True)
class Cohort:
    """Grade and patient of each image, from which it can be rendered.

    :param grades: int64 (n,)
    :param patients: int64 (n,)
    :param seed: random seed of patients and images
    """

    grades: np.ndarray
    patients: np.ndarray
    seed: int

    def render(self, positions: np.ndarray) -> np.ndarray:
        """Return some of the images.

        Each is drawn from a random stream of its own, whichever others are asked for.

        :param positions: int (m,)
        :return: uint8 (m, 256, 128, 3)
        """
        images = [self._render_one(int(i)) for i in positions]
        return np.stack(images)

    def _render_one(self, position: int) -> np.ndarray:
        grade = int(self.grades[position])
        number = int(self.patients[position])
        patient = Patient.draw(default_rng((self.seed, 0, number)))
        rng = default_rng((self.seed, 1, position))
        return render_phantom(grade, patient, rng)


def _draw_patients(
    counts: Sequence[int] | np.ndarray,
    n_patients: int,
    rng: Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a patient for each image. Most patients have one grade.

    :param counts: number of images per grade
    :param n_patients: number of patients
    :param rng: random generator
    :return: grades in order, and patients, int64 (n,) each
    """
    concentration = np.full(len(GRADES), GRADE_CONCENTRATION)
    mixtures = rng.dirichlet(concentration, n_patients)  # (patients, grades)
    patients = []
    for count, weights in zip(counts, mixtures.T):
        probabilities = weights / weights.sum()
        patients.append(rng.choice(n_patients, count, p=probabilities))
    grades = np.repeat(np.arange(len(GRADES)), counts)
    return grades, np.concatenate(patients)


@lru_cache(maxsize=8)
def _real_cohort(seed: int) -> tuple[Cohort, dict[str, np.ndarray]]:
    """Return the real set, and the positions of each part in it."""
    rng = default_rng(seed)
    everyone = np.array(COUNTS)
    counts = {}
    for part in ("valid", "test"):
        counts[part] = np.round(everyone * SHARES[part]).astype(int)
    counts["train"] = everyone - counts["valid"] - counts["test"]  # what rounding leaves

    # Patients are numbered through from part to part.
    grades = []
    patients = []
    positions = {}
    n_images = 0
    n_patients = 0
    for part in SHARES:
        part_grades, part_patients = _draw_patients(counts[part], PATIENTS[part], rng)
        grades.append(part_grades)
        patients.append(part_patients + n_patients)
        stop = n_images + len(part_grades)
        positions[part] = np.arange(n_images, stop)
        n_images = stop
        n_patients += PATIENTS[part]
    cohort = Cohort(np.concatenate(grades), np.concatenate(patients), seed)
    return cohort, positions


@lru_cache(maxsize=8)
def _candidate_cohort(
    per_class: int,
    flaws: tuple[tuple[str, float], ...],
    seed: int,
) -> tuple[Cohort, FlawPlan]:
    rng = default_rng(seed)
    counts = (per_class,) * len(GRADES)
    grades, patients = _draw_patients(counts, CANDIDATE_PATIENTS, rng)
    cohort = Cohort(grades, patients, seed)
    plan = plan_flaws(grades, len(GRADES), dict(flaws), seed)
    return cohort, plan


def cervical_phantom(seed: int = 0) -> dict[str, Dataset]:
    """Return a phantom of the paper's cervical set.

    It has as many images of each grade, split 7:1:2 by patient.

    :param seed: random seed of everything; another one is another hospital
    :return: "train", "valid" and "test"; images are rendered when they are asked for
    """
    cohort, parts = _real_cohort(seed)
    recipe = {"seed": seed, "version": VERSION}
    positions = np.arange(len(cohort.grades))
    images = RenderedImages("cervical phantom", recipe, positions)
    groups = tuple(f"patient-{p:03d}" for p in cohort.patients)
    ids = tuple(f"{GRADES[grade]}-{i:04d}" for i, grade in enumerate(cohort.grades))
    everything = Dataset.of_images(images, cohort.grades, ids, GRADES, groups)
    return {name: everything.subset(parts[name]) for name in SHARES}


def phantom_candidates(
    per_class: int = 1024,
    flaws: Mapping[str, float] = CANDIDATE_FLAWS,
    seed: int = 1,
) -> Dataset:
    """Return candidates of known truth.

    They are images of other patients than the real set's, some of them spoilt.

    :param per_class: number of images per grade, before labels are spoilt
    :param flaws: name of a flaw to its share of the candidates
    :param seed: random seed of everything; must not be that of the real images
    """
    _, plan = _candidate_cohort(per_class, tuple(flaws.items()), seed)
    recipe = {
        "per_class": per_class,
        "flaws": [list(pair) for pair in flaws.items()],  # their order counts
        "seed": seed,
        "version": [VERSION, FLAWS_VERSION],
    }
    # In random order, so that a position does not tell the grade.
    rng = default_rng((seed, per_class))
    order = rng.permutation(len(plan.labels))
    images = RenderedImages("cervical phantom candidates", recipe, order)
    ids = tuple(f"candidate-{i:04d}" for i in range(len(order)))
    labels = plan.labels[order]
    flaw = plan.flaw[order]
    return Dataset.of_images(images, labels, ids, GRADES, flaw=flaw)


def _render_real(positions: np.ndarray, seed: int, version: int) -> np.ndarray:
    _check_version(version, VERSION)
    cohort, _ = _real_cohort(seed)
    return cohort.render(positions)


def _render_candidates(
    positions: np.ndarray,
    per_class: int,
    flaws: list[list[Any]],
    seed: int,
    version: list[int],
) -> np.ndarray:
    _check_version(version, [VERSION, FLAWS_VERSION])
    pairs = tuple((name, share) for name, share in flaws)
    cohort, plan = _candidate_cohort(per_class, pairs, seed)
    sources = cohort.render(plan.source[positions])
    return plan.spoil(positions, sources)


def _check_version(version: object, ours: object) -> None:
    if version != ours:
        raise ValueError(
            f"these images are of version {version} of the phantom, this release renders {ours}; "
            "build the bank again"
        )


RENDERERS["cervical phantom"] = _render_real
RENDERERS["cervical phantom candidates"] = _render_candidates
