"""``synthselect export``: put the kept images into class folders, ready for any training script.

synthselect export --selection runs/mine --candidates synthetic --copy-to selected
synthselect export --selection runs/mine --candidates synthetic --real real/train --link-to set
synthselect export --selection selection.csv --bank pcam-few --copy-to selected
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from agents.cli.common import Command, Facts
from agents.cli.image_options import ImageOptions
from agents.export import export_images
from agents.progress import progress_bar
from agents.runs import RECOMMENDED, SELECTION, stored_config
from synthselect_env import Selection
from synthselect_env.bank import resolve_bank


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Put the images that a selection keeps into class folders, alone or with the real ones.

    Images are taken from the folder of candidates as they are, or from a bank, where they are
    shrunk.

    :param selection: CSV file of a selection, or directory of a run for what it recommends
    :param candidates: folder of the candidates; this or --bank
    :param bank: bank of the candidates; this or --candidates
    :param copy_to: directory to which images are copied; this or --link-to
    :param link_to: directory in which links are made to the images
    :param real: real images to put beside them, e.g. real/train
    :param images: how folders of images are read
    """

    selection: Path
    candidates: Path | None = None
    bank: str | None = None
    copy_to: Path | None = None
    link_to: Path | None = None
    real: Path | None = None
    images: ImageOptions = ImageOptions()

    def run(self) -> Facts:
        """Copy or link the images."""
        if bool(self.candidates) == bool(self.bank):
            raise ValueError("give either --candidates or --bank")
        if bool(self.copy_to) == bool(self.link_to):
            raise ValueError("give either --copy-to or --link-to")
        file = self.selection
        if file.is_dir():
            judged = stored_config(file).judges
            file = file / (RECOMMENDED if judged else SELECTION)
            if not file.exists():
                raise ValueError(f"{file.parent} is no finished run; {file.name} is missing")
        selection = Selection.load(file)
        classes = tuple(self.images.classes) or tuple(sorted(set(selection.labels)))
        if self.candidates is not None:
            found = self.images.find_candidates(self.candidates, classes)
            pool, source = found[None], found.path
        else:
            pool, source = resolve_bank(str(self.bank)).candidates, None
        real = None
        if self.real is not None:
            real = replace(self.images, classes=classes).find_real(self.real)
        out = self.copy_to or self.link_to
        assert out is not None
        total = selection.count + (len(real[None]) if real else 0)
        with progress_bar(total, "image") as bar:
            count = export_images(
                selection,
                pool,
                out,
                real=None if real is None else real[None],
                link_from=source if self.link_to else None,
                link_real_from=real.path if real and self.link_to else None,
                on_image=bar.update,
            )
        print(f"{count:,} images in {out}")
        return {"directory": str(out), "images": count}
