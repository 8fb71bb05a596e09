"""HistoGAN's networks: a class-conditional residual generator, and a discriminator on the features of a network that knows the tissue.

The paper gives its HistoGAN only in a supplement that is not public; these are ours, on common practice: conditional
batch normalisation with a latent in every block (BigGAN, Brock et al. 2019), judgement of frozen features at several scales
(Projected GAN, Sauer et al. 2021, arXiv:2111.01007), spectral normalisation (Miyato et al. 2018), a class projection (Miyato and
Koyama 2018) and batch statistics against repetition (Karras et al. 2018).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

STAGES = 4
"""Doublings from the smallest grid to the image; sides are multiples of 2**STAGES."""

COARSE = 16
"""Noise maps on the smallest grid, from which whatever has a place in the image comes."""

REPETITION_GROUP = 4
"""Images of a batch whose spread the discriminator sees together, where the batch can be cut so."""


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose gain and bias are linear in a condition vector.

    :param channels: channels of the input
    :param condition: length of the condition
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain_bias = nn.Linear(condition, 2 * channels, bias=False)
        nn.init.normal_(self.gain_bias.weight, std=0.02)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w), (b, condition) -> (b, c, h, w)"""
        gain, bias = self.gain_bias(condition)[:, :, None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + gain) + bias


class Wrapped(torch.autograd.Function):
    """A border of one pixel from the opposite side: ``F.pad(x, (1, 1, 1, 1), mode="circular")`` with a gradient that copies less.

    With torch's, a training step at 64×64 pixels took 1.28 s on two CPU cores; with this, 1.07 s.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, c, h + 2, w + 2)"""
        x = torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2)
        return torch.cat([x[..., -1:], x, x[..., :1]], 3)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """(b, c, h + 2, w + 2) -> (b, c, h, w)"""
        (outer,) = gradients
        rows = outer[:, :, 1:-1].clone()
        rows[:, :, -1] += outer[:, :, 0]
        rows[:, :, 0] += outer[:, :, -1]
        inner = rows[..., 1:-1].clone()
        inner[..., -1] += rows[..., 0]
        inner[..., 0] += rows[..., -1]
        return inner


def _doubled(x: torch.Tensor) -> torch.Tensor:
    # bilinear: doubling by repetition left a checkerboard, by which a classifier told the generated classes apart
    return F.interpolate(Wrapped.apply(x), scale_factor=2.0, mode="bilinear", align_corners=False)[
        :, :, 2:-2, 2:-2
    ]


class Convolution(nn.Conv2d):
    """3×3, on a image whose opposite borders meet.  (b, c_in, h, w) -> (b, c_out, h, w)

    :param c_in: channels of the input
    :param c_out: channels of the output
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c_in, h, w) -> (b, c_out, h, w)"""
        return super().forward(Wrapped.apply(x))


class GeneratorBlock(nn.Module):
    """Norm, ReLU, upsample, convolve, twice over, beside an upsampled 1×1 shortcut.  (b, c_in, h, w) -> (b, c_out, 2h, 2w)

    Noise joins after the first convolution, with a learned strength a channel (StyleGAN, Karras et al. 2019): where each
    nucleus lies is chance, and a network that is handed the chance needs not make it from a vector.
    """

    def __init__(self, c_in: int, c_out: int, condition: int) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.full((1, c_out, 1, 1), 0.1))
        self.norm1, self.norm2 = (
            ConditionalBatchNorm(c_in, condition),
            ConditionalBatchNorm(c_out, condition),
        )
        self.conv1, self.conv2 = Convolution(c_in, c_out), Convolution(c_out, c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(
        self, x: torch.Tensor, condition: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """(b, c_in, h, w), (b, condition), (b, 1, 2h, 2w) -> (b, c_out, 2h, 2w)"""
        y = _doubled(F.relu(self.norm1(x, condition)))
        y = self.conv1(y) + self.noise_strength * noise
        y = self.conv2(F.relu(self.norm2(y, condition)))
        return y + _doubled(self.shortcut(x))


class Generator(nn.Module):
    """Latent and class to image, the same everywhere: tissue under a microscope has no centre and no border.

    A latent is a vector of length ``latent`` that conditions every block, followed by :data:`COARSE` noise maps on the smallest grid and
    one for each block; :attr:`latent_length` numbers in all, standard normal. No weight belongs to a place, and what leaves the image on
    one side comes in on the other, so that noise alone says where things lie: maps that are moved move the image. A generator with
    weights for each place put the marks of a class always into the same places (a lumen in the middle, a stroke on the left), by which a
    classifier knew the class. The image is to be cut out of a larger one, or its opposite borders fit each other.

    :param size: (height, width), multiples of 16
    :param n_classes: number of classes
    :param width: channels at full resolution; coarser stages have 2, 4 and 8 times as many
    :param latent: length of the latent vector
    """

    def __init__(self, size: tuple[int, int], n_classes: int, width: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.grid = (size[0] >> STAGES, size[1] >> STAGES)
        self.noise_sizes = [(size[0] >> s, size[1] >> s) for s in reversed(range(STAGES))]
        self.noise_lengths = [
            COARSE * self.grid[0] * self.grid[1],
            *(h * w for h, w in self.noise_sizes),
        ]
        self.latent_length = latent + sum(self.noise_lengths)
        channels = [width * m for m in (8, 8, 4, 2, 1)]
        self.embedding = nn.Embedding(n_classes, latent)
        self.stem, self.places = (
            nn.Linear(2 * latent, channels[0]),
            nn.Conv2d(COARSE, channels[0], 1, bias=False),
        )
        self.blocks = nn.ModuleList(
            GeneratorBlock(a, b, 2 * latent) for a, b in zip(channels, channels[1:])
        )
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = Convolution(channels[-1], 3)

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(b, latent_length), (b,) -> (b, 3, h, w) in -1..1"""
        vector, coarse, *noises = z.split([self.latent, *self.noise_lengths], dim=1)
        condition = torch.cat([vector, self.embedding(labels)], dim=1)
        x = self.stem(condition)[:, :, None, None] + self.places(
            coarse.view(-1, COARSE, *self.grid)
        )
        x = x.contiguous(memory_format=torch.channels_last)
        for block, noise, size in zip(self.blocks, noises, self.noise_sizes):
            x = block(x, condition, noise.view(-1, 1, *size))
        return torch.tanh(self.to_rgb(F.relu(self.norm(x))))


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a 1×1 shortcut.  (b, c_in, h, w) -> (b, c_out, h/2, w/2)"""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c_in, h, w) -> (b, c_out, h/2, w/2)"""
        # every second pixel, and not a stride of 2: with one, torch 2.14's backward of a 1×1 convolution was seen to write past its
        # memory where there are fewer than 8 channels (AMD, AVX2)
        return F.relu(self.body(x) + self.shortcut(x[:, :, ::2, ::2]))


class FeatureNetwork(nn.Module):
    """What the discriminator looks through: a small residual network, trained on the real images before the GAN and frozen then.

    :param width: channels at full resolution; :attr:`channels` has those of all scales
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = [width, *(width * m for m in (1, 2, 4, 8))]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(a, b) for a, b in zip(self.channels, self.channels[1:])
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of five scales, the finest first.  (b, 3, h, w) in -1..1 -> (b, c, h / 2**s, w / 2**s) each"""
        maps = [self.stem(x)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


class PixelBlock(nn.Module):
    """ReLU, convolve, twice over, halve, beside a 1×1 shortcut.  (b, c_in, h, w) -> (b, c_out, h/2, w/2)"""

    def __init__(self, c_in: int, c_out: int, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.conv1 = spectral_norm(nn.Conv2d(c_in, c_out, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(c_in, c_out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c_in, h, w) -> (b, c_out, h/2, w/2)"""
        y = self.conv1(
            x if self.first else F.relu(x)
        )  # a ReLU on pixels would throw the dark half away
        y = F.avg_pool2d(self.conv2(F.relu(y)), 2)
        return y + self.shortcut(F.avg_pool2d(x, 2))


class Head(nn.Module):
    """Judges every place of one feature map.

    :param channels: of the map
    :param hidden: channels inside
    :param n_classes: number of classes
    :param stride: of the first convolution, 2 for fine maps
    :param group: images whose spread is appended to the map, see :class:`Discriminator`; 0 for none
    """

    def __init__(
        self, channels: int, hidden: int, n_classes: int, stride: int, group: int = 0
    ) -> None:
        super().__init__()
        self.group = group
        self.mix = nn.Conv2d(channels, hidden, 1).requires_grad_(False)
        nn.init.kaiming_normal_(self.mix.weight, nonlinearity="linear")
        self.conv1 = spectral_norm(nn.Conv2d(hidden, hidden, 3, stride, 1))
        self.conv2 = spectral_norm(nn.Conv2d(hidden + (group > 0), hidden, 3, 1, 1))
        self.score = nn.Conv2d(hidden, 1, 1)
        self.projection = nn.Embedding(n_classes, hidden)
        nn.init.zeros_(self.projection.weight)

    @torch.no_grad()
    def calibrate(self, features: torch.Tensor) -> None:
        """Scale the random mixture so that these features have zero mean and unit variance in each channel.  (b, c, h, w)"""
        weight, bias = self.mix.weight, self.mix.bias
        assert bias is not None
        bias.zero_()
        mixed = self.mix(features).float()
        deviation = mixed.std((0, 2, 3)).clamp_min(1e-6)
        weight.div_(deviation.view(-1, 1, 1, 1))
        bias.copy_(-mixed.mean((0, 2, 3)) / deviation)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w), (b,) -> (b, places)"""
        x = F.leaky_relu(self.conv1(self.mix(features)), 0.2)
        if self.group:
            together = x.float().unflatten(0, (-1, self.group))
            spread = (
                (together.var(1, unbiased=False) + 1e-8)
                .sqrt()
                .mean((1, 2, 3))
                .repeat_interleave(self.group)
            )
            x = torch.cat([x, spread.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:]).to(x.dtype)], 1)
        x = F.leaky_relu(self.conv2(x), 0.2)
        by_class = (x.float() * self.projection(labels)[:, :, None, None]).sum(1, keepdim=True)
        return (self.score(x).float() + by_class).flatten(1)


class Discriminator(nn.Module):
    """Image and class to realness scores, on frozen features of five scales (Projected GAN, Sauer et al. 2021) and on the pixels.

    Features come from a network that was trained on the real training images, where the original takes one of ImageNet's: a
    discriminator that starts from nothing learns too little of what tells the classes apart in the steps that a small set is worth. Channels
    are mixed at random once, as in the original; scales are not mixed. Two trained blocks look at the pixels: a frozen network alone can be
    fooled, and was, by a spot in a corner. The coarsest head is also told how much the images of a group differ, so that a
    generator that repeats itself is found out.

    :param n_classes: number of classes
    :param width: of the feature network; heads have twice as many channels
    :param batch_size: images of one kind, real or generated, that come together
    """

    def __init__(self, n_classes: int, width: int, batch_size: int) -> None:
        super().__init__()
        self.features = FeatureNetwork(width).requires_grad_(False).eval()
        self.pixels = nn.Sequential(PixelBlock(3, width, first=True), PixelBlock(width, 2 * width))
        group = math.gcd(batch_size, REPETITION_GROUP)
        strides = (
            1,
            2,
            2,
            2,
            1,
            1,
        )  # maps of half the image's side and more are halved, which spares three quarters of the work
        groups = (0, 0, 0, 0, 0, group)
        self.heads = nn.ModuleList(
            Head(channels, 2 * width, n_classes, *settings)
            for channels, *settings in zip((2 * width, *self.features.channels), strides, groups)
        )

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the heads look at.  (b, 3, h, w) in -1..1 -> (b, c, h', w') a head"""
        return [self.pixels(x), *self.features(x)]

    @torch.no_grad()
    def calibrate(self, images: torch.Tensor) -> None:
        """Fit the heads' inputs to the range of what they see of real images.  (b, 3, h, w) in -1..1"""
        for head, features in zip(self.heads, self.maps(images)):
            head.calibrate(features)  # type: ignore[operator]

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        """(b, 3, h, w), (b,) -> (b, places) a head"""
        return [head(features, labels) for head, features in zip(self.heads, self.maps(x))]
