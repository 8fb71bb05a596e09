"""One optimizer step as work on the device alone, which a CUDA graph can replay."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.config import TrainingConfig
from synthselect_env.training.device import autocast
from synthselect_env.training.muon import Muon
from synthselect_env.training.plan import TrainingPlan, one_cycle

PIXEL_MEAN, PIXEL_STD = 0.5, 0.25
"""Shift and scale of pixels in 0..1. Stained tissue fills most of the range, so no statistics of a
data set are needed."""

WARM_UP_STEPS = 3
"""Steps before a capture, in which torch and cuDNN set themselves up."""


class TrainingStep:
    """A network, its optimizer, and the next step of its training.

    The draws of all steps lie on the device, beside a counter of the steps done. So each step is
    the same sequence of operations, with nothing to wait for.

    :param network: network to train, on the device
    :param pixels: all images, uint8 (n, 3, h, w)
    :param targets: all labels, int64 (n,)
    :param plan: draws of all steps
    :param config: training configuration
    """

    def __init__(
        self,
        network: nn.Module,
        pixels: torch.Tensor,
        targets: torch.Tensor,
        plan: TrainingPlan,
        config: TrainingConfig,
    ) -> None:
        device = pixels.device
        self.network, self.pixels, self.targets, self.config = network, pixels, targets, config
        self.augmentation = AUGMENTATIONS[config.augmentation]
        self.plan = plan.to(device)
        self.schedule = one_cycle(len(plan.indices)).to(device)
        self.done = torch.zeros(1, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), device=device)
        self.parameters = list(network.parameters())
        self.optimizers = _optimizers(network, config, device)

    def __call__(self) -> None:
        """Take one optimizer step."""
        # Look up the images of this step, and augment them.
        done, plan = self.done, self.plan
        indices = plan.indices.index_select(0, done)[0]
        flips = plan.flips.index_select(0, done)[0]
        colours = plan.colours.index_select(0, done)[0]
        images = self.pixels.index_select(0, indices).float() / 255
        images = normalise(self.augmentation.apply(images, flips, colours))
        labels = self.targets.index_select(0, indices)

        # Compute the gradient.
        for parameter in self.parameters:
            parameter.grad = None
        with autocast(images.device):
            logits = self.network(images)
            # GoogLeNet and Inception return auxiliary logits beside them.
            logits = getattr(logits, "logits", logits)
            smoothing = self.config.label_smoothing
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        loss.backward()

        # Take the step.
        share = self.schedule.index_select(0, done)[0]
        for optimizer, highest in self.optimizers:
            optimizer.param_groups[0]["lr"].copy_(highest * share)
            optimizer.step()
        self.loss = loss.detach()
        self.done.add_(1)

    def restart(self, network: nn.Module, plan: TrainingPlan) -> None:
        """Begin another training in the same memory.

        :param network: network whose weights are the start; it has the same shapes
        :param plan: draws of as many steps
        """
        copy_weights(network, self.network)
        self.plan.copy_from(plan)
        self.done.zero_()
        for optimizer, _ in self.optimizers:
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()


def _optimizers(
    network: nn.Module, config: TrainingConfig, device: torch.device
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return the optimizers of a network's parameters, each with its highest learning rate."""
    by_muon: list[torch.Tensor] = []
    optimizers: list[tuple[torch.optim.Optimizer, float]] = []
    if config.muon_rate is not None:
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        by_muon = [convolution.weight for convolution in convolutions[1:]]
    if by_muon and config.muon_rate is not None:
        muon = Muon(by_muon, torch.zeros((), device=device))
        optimizers.append((muon, config.muon_rate))
    taken = {id(weight) for weight in by_muon}
    adamw = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if id(parameter) not in taken],
        lr=torch.zeros((), device=device),
        weight_decay=config.weight_decay,
        fused=True,
        capturable=device.type == "cuda",
    )
    return [*optimizers, (adamw, config.learning_rate)]


class CapturedStep:
    """A training step that a GPU replays as one graph, on a stream of its own.

    :param step: step to capture. It is run a few times, so restart it before its first use
    """

    def __init__(self, step: TrainingStep) -> None:
        self.step = step
        device = step.pixels.device
        self.stream = torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP_STEPS):
                step.done.zero_()
                step()
            step.done.zero_()
        torch.cuda.synchronize(device)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            step()

    @property
    def loss(self) -> torch.Tensor:
        """Loss of the last step."""
        return self.step.loss

    def __call__(self) -> None:
        """Begin one optimizer step, and do not wait for it."""
        with torch.cuda.stream(self.stream):
            self.graph.replay()


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Return pixels as networks get them, channels last in memory.

    :param images: (b, 3, h, w) in 0..1
    """
    scaled = (images - PIXEL_MEAN) / PIXEL_STD
    return scaled.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters and buffers into another network of the same shapes, in place.

    :param source: network to copy from
    :param target: network to copy to
    """
    theirs = source.state_dict()
    for name, value in target.state_dict().items():
        value.copy_(theirs[name])
