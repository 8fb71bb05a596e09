"""Options of commands that read folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthselect_env.data import Dataset, FoundImages, find_images, split_real
from synthselect_env.data.preparing import SHORT_SIDE


@dataclass(frozen=True, kw_only=True)
class RealImageOptions:
    """Options of reading folders of real images.

    :param classes: class names in label order by name unless given; of two, the second is positive
    :param patient: regular expression that finds a real image's patient or slide in its file name,
        e.g. '^[^_]+'
    :param layout: folders of the real images from the top, e.g. split/patient/class or 'class/*',
        where they are not found out
    :param labels: table of the real images' classes, where folders do not tell them
    :param label_column: its column of classes, where it is not found out
    :param window: values of black and white of images of more than 8 bits
    :param page: number of the page in files of several, of real images
    :param skip_unreadable: leave out images that cannot be read, and list them
    """

    classes: tuple[str, ...] = ()
    patient: str | None = None
    layout: str | None = None
    labels: Path | None = None
    label_column: str | None = None
    window: tuple[float, float] | None = None
    page: int = 0
    skip_unreadable: bool = False

    def find_real(self, path: Path) -> FoundImages:
        """Return the real images of a directory or archive.

        :param path: directory or archive
        """
        return find_images(
            path,
            self.classes,
            self.patient,
            self.layout,
            self.labels,
            self.label_column,
            self.window,
            self.page,
        )

    def read_real(self, path: Path, seed: int) -> dict[str, Dataset]:
        """Return the real images as train, valid and test, and print what was found.

        :param path: directory or archive
        :param seed: random seed of the split, where there is none yet
        """
        found = self.find_real(path)
        print(found.describe())
        real, notes = split_real(found, seed)
        for note in notes:
            print(f"  {note}")
        return real


@dataclass(frozen=True, kw_only=True)
class ImageOptions(RealImageOptions):
    """Options of reading folders of real images and candidates.

    :param candidates_layout: folders of the candidates, as for --layout
    :param short_side: pixels on the short side to which images are shrunk
    :param exclude_copies: leave out candidates and train images that are changed copies of
        validation or test images
    """

    candidates_layout: str | None = None
    short_side: int = SHORT_SIDE
    exclude_copies: bool = False

    def find_candidates(self, path: Path, classes: Sequence[str]) -> FoundImages:
        """Return the candidates of a directory or archive.

        :param path: directory or archive
        :param classes: names of the classes of the real images
        """
        layout = self.candidates_layout
        return find_images(path, classes, layout=layout, window=self.window)
