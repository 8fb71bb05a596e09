"""``synthselect auto``: two folders in, a folder to train on out.

synthselect auto --real real --candidates synthetic --out answer
synthselect auto --real real --out answer                         # trains a generator first
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass, fields
from pathlib import Path

from agents.cli.bank import BuildBank, check_classes
from agents.cli.common import Facts, SeededCommand
from agents.cli.generate_sample import SampleGenerator
from agents.cli.generate_train import TrainGenerator
from agents.cli.image_options import ImageOptions
from agents.cli.retrain import Retrain, least_retrainings
from agents.evaluation.outcomes import has_few_images
from agents.export import export_images
from agents.runs import DECISION, RECOMMENDED, RunConfig, train_run
from synthselect_env import FeatureBank, Selection
from synthselect_env.data import encode_images
from synthselect_env.storage import atomic_write, content_key, exclusive
from synthselect_env.synthesis import HistoGAN, HistoGANConfig
from synthselect_env.training.config import SMALL

FOLDS = 5
"""Folds by which retrainings are scored where few images are annotated, and candidates are given."""

QUICK_GENERATOR = HistoGANConfig(steps=2000, width=16, pretraining_steps=400)
"""Settings of a generator that is trained in minutes; see benchmarks/results/generator_quality.md."""

GENERATED = 1024
"""Candidates that it makes."""


@dataclass(frozen=True, kw_only=True)
class Auto(SeededCommand):
    """Go the whole way: two folders in, a report and a folder of selected images out.

    Without candidates, it trains a generator on the real train images first. It builds a bank,
    retrains a network on a few dozen selections, and trains a policy on what these teach. Then it
    retrains the network on the policy's selection and on those of simple orders. The one that the
    annotated images speak for is copied to OUT/selected; that may be nothing. After an interruption,
    the same command goes on.

    :param real: real images: directory, zip or npz
    :param candidates: synthetic images in class folders; a generator makes some unless given
    :param out: directory to write
    :param retrainings: selections on which a network is retrained to teach the reward
    :param rounds: trainings of the judge on each selection, with a seed each
    :param algorithm: PPO or CreditPPO
    :param no_random_flips: do not flip or transpose what the generator learns from and makes,
        for images that have an up
    :param images: how folders of images are read
    """

    real: Path
    candidates: Path | None = None
    out: Path
    retrainings: int = 48
    rounds: int = 1
    algorithm: str = RunConfig.algorithm
    no_random_flips: bool = False
    images: ImageOptions = ImageOptions()

    def run(self) -> Facts:
        """Go the whole way."""
        start = time.perf_counter()
        self._run_config(None)  # so that what is wrong is said before anything is made
        least = least_retrainings(FOLDS if self.candidates else None)
        if self.retrainings < least:
            raise ValueError(f"--retrainings must be at least {least}")
        if self.no_random_flips and self.candidates is not None:
            raise ValueError("--no-random-flips is for the generator; leave out --candidates")
        self._claim()
        bank_file = self.out / "bank.h5"
        candidates = self.candidates or self.out / "candidates"

        # Make candidates, build the bank, and teach the reward. A finished bank has its retrainings.
        with exclusive(self.out):
            if self.candidates is None and not bank_file.exists():
                self._generate(candidates)
            if not bank_file.exists():
                self._build(candidates, bank_file)
        bank = FeatureBank.load(bank_file)
        retrained = bank.retrainings
        folds = None if retrained is None else retrained.folds

        # Learn, select, judge, report.
        run = train_run(self._run_config(folds))

        # Hand over the images that are recommended.
        selection = Selection.load(run / RECOMMENDED)
        found = self.images.find_candidates(candidates, bank.classes)
        selected = self.out / "selected"
        if selected.exists():
            shutil.rmtree(selected)
        export_images(selection, found[None], selected)
        minutes = (time.perf_counter() - start) / 60
        decision = json.loads((run / DECISION).read_text(encoding="utf-8"))
        print(
            f"{selection.count:,} images, chosen by {selection.source}, in {selected}; "
            f"{minutes:.1f} min in all\n{decision['sentence']}"
        )
        return {
            "selected": str(selected),
            "chosen_by": selection.source,
            "decision": decision["decision"],
            "kept": selection.count,
            "candidates": len(selection),
            "report": str(self.out / "report.html"),
            "minutes": round(minutes, 2),
        }

    def _run_config(self, folds: int | None) -> RunConfig:
        """Return the configuration of the training run."""
        return RunConfig(
            bank=str(self.out / "bank.h5"),
            algorithm=self.algorithm,
            judges=(SMALL.architecture,),
            folds=folds,
            rounds=self.rounds,
            seed=self.seed,
            device=self.device,
            out=str(self.out),
        )

    def _claim(self) -> None:
        """Make the directory this command's own.

        :raises ValueError: if it holds something else, or the results of other arguments
        """
        settings = {
            f.name: str(getattr(self, f.name))
            for f in fields(self)
            if f.name not in ("out", "device")
        }
        key, file = content_key(settings), self.out / "auto.json"
        if file.exists():
            if json.loads(file.read_text())["key"] != key:
                raise ValueError(
                    f"{self.out} holds the results of other arguments; give them again, or "
                    "another --out"
                )
            return
        if self.out.exists() and any(self.out.iterdir()):
            raise ValueError(f"{self.out} is not empty; give another --out")
        with atomic_write(file) as path:
            path.write_text(json.dumps({"key": key, "arguments": settings}, indent=2))

    def _generate(self, out: Path) -> None:
        """Train a generator on the real train images, and write class folders of candidates."""
        # What is wrong with the real images is said now, and not when the generator is trained.
        real = self.images.read_real(self.real, self.seed)
        check_classes(real)
        for images in real.values():
            encode_images(images, self.images.short_side, self.images.skip_unreadable)
        print(
            f"no --candidates: a generator is trained first, for {QUICK_GENERATOR.steps:,} steps. "
            "That takes about 20 minutes on two cores, and few on a GPU"
        )
        trained = TrainGenerator(
            real=self.real,
            out=self.out / "generator",
            steps=QUICK_GENERATOR.steps,
            width=QUICK_GENERATOR.width,
            pretraining_steps=QUICK_GENERATOR.pretraining_steps,
            no_random_flips=self.no_random_flips,
            seed=self.seed,
            device=self.device,
            images=self.images,
        ).run()
        checkpoint = Path(trained["checkpoint"])
        SampleGenerator(
            gan=checkpoint,
            out=out,
            per_class=math.ceil(GENERATED / len(HistoGAN.load(checkpoint).classes)),
            seed=self.seed,
            device=self.device,
        ).run()

    def _build(self, candidates: Path, out: Path) -> None:
        """Build the bank, and retrain a network on selections of its candidates."""
        file = self.out / "images.h5"
        BuildBank(
            real=self.real,
            candidates=candidates,
            out=file,
            seed=self.seed,
            device=self.device,
            images=self.images,
        ).run()
        bank = FeatureBank.load(file)
        # Folds score train images, too. A generator of our own has seen these.
        by_folds = has_few_images(bank) and self.candidates is not None
        Retrain(
            bank=str(file),
            out=out,
            retrainings=self.retrainings,
            folds=FOLDS if by_folds else None,
            seed=self.seed,
            device=self.device,
        ).run()
        file.unlink()
