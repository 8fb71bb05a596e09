"""HistoGAN's networks: class-conditional generator, feature network and discriminator.

The paper gives its HistoGAN only in a supplement. Its authors described the architecture later
(Medical Image Analysis 2021, arXiv:2111.06399); this one is ours, on common practice: conditional
batch normalisation with a latent in every block (BigGAN, Brock et al. 2019), judgement of frozen
features at several scales (Projected GAN, Sauer et al. 2021, arXiv:2111.01007), spectral
normalisation (Miyato et al. 2018), a class projection (Miyato and Koyama 2018) and batch statistics
against repetition (Karras et al. 2018).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

STAGES = 4
"""Doublings from the smallest grid to the image. Sides are multiples of ``2**STAGES``."""

COARSE_MAPS = 16
"""Noise maps on the smallest grid, from which everything that has a place in the image comes."""

CHANNEL_FACTORS = (8, 8, 4, 2, 1)
"""Channels of the generator's stages, as multiples of the width, the coarsest stage first."""

REPETITION_GROUP = 4
"""Images whose spread the discriminator sees together, if the batch divides into such groups."""

SLOPE = 0.2
"""Negative slope of the leaky ReLUs."""


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose gain and bias are linear in a condition vector.

    :param channels: Channels of the input
    :param condition: Length of the condition
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain_bias = nn.Linear(condition, 2 * channels, bias=False)
        nn.init.normal_(self.gain_bias.weight, std=0.02)

    # (b, c, h, w), (b, condition) -> (b, c, h, w)
    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Normalise, then scale and shift each channel by the condition."""
        gain, bias = self.gain_bias(condition)[:, :, None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + gain) + bias


class CircularPad(torch.autograd.Function):
    """Add a border of one pixel from the opposite side.

    Equals ``F.pad(x, (1, 1, 1, 1), mode="circular")``, with a gradient that copies less.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # (b, c, h, w) -> (b, c, h + 2, w + 2)
        """Pad the rows, then the columns."""
        x = torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2)
        return torch.cat([x[..., -1:], x, x[..., :1]], 3)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """Add the border's gradient to that of the pixels it was copied from."""
        (outer,) = gradients  # (b, c, h + 2, w + 2)
        rows = outer[:, :, 1:-1].clone()
        rows[:, :, -1] += outer[:, :, 0]
        rows[:, :, 0] += outer[:, :, -1]
        inner = rows[..., 1:-1].clone()
        inner[..., -1] += rows[..., 0]
        inner[..., 0] += rows[..., -1]
        return inner


def _upsample(x: torch.Tensor) -> torch.Tensor:  # (b, c, h, w) -> (b, c, 2h, 2w)
    # Bilinear: repeated pixels leave a checkerboard, by which a classifier knows generated classes.
    padded = CircularPad.apply(x)
    doubled = F.interpolate(padded, scale_factor=2.0, mode="bilinear", align_corners=False)
    return doubled[:, :, 2:-2, 2:-2]


class CircularConv2d(nn.Conv2d):
    """3×3 convolution on an image whose opposite borders meet.

    :param c_in: Channels of the input
    :param c_out: Channels of the output
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, c_in, h, w) -> (b, c_out, h, w)
        """Pad and convolve."""
        return super().forward(CircularPad.apply(x))


class GeneratorBlock(nn.Module):
    """Residual block of the generator, which doubles the sides.

    Norm, ReLU and convolution, twice over, beside a 1×1 shortcut. Noise joins after the first
    convolution, with a learned strength per channel (StyleGAN, Karras et al. 2019). The position of
    each nucleus is chance; a network that is given the chance need not derive it from a vector.

    :param c_in: Channels of the input
    :param c_out: Channels of the output
    :param condition: Length of the condition
    """

    def __init__(self, c_in: int, c_out: int, condition: int) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.full((1, c_out, 1, 1), 0.1))
        self.norm1 = ConditionalBatchNorm(c_in, condition)
        self.norm2 = ConditionalBatchNorm(c_out, condition)
        self.conv1 = CircularConv2d(c_in, c_out)
        self.conv2 = CircularConv2d(c_out, c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)

    # (b, c_in, h, w), (b, condition), (b, 1, 2h, 2w) -> (b, c_out, 2h, 2w)
    def forward(
        self, x: torch.Tensor, condition: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Apply both branches and add them."""
        y = _upsample(F.relu(self.norm1(x, condition)))
        y = self.conv1(y) + self.noise_strength * noise
        y = self.conv2(F.relu(self.norm2(y, condition)))
        return y + _upsample(self.shortcut(x))


class Generator(nn.Module):
    """Network from latent and class to image, the same at every place of the image.

    A latent holds :attr:`latent_length` standard normal numbers: a vector of length ``latent`` that
    conditions every block, :data:`COARSE_MAPS` noise maps on the smallest grid, and one noise map
    per block.

    Tissue under a microscope has no centre and no border. So no weight belongs to a place, and
    opposite borders meet: noise alone decides where things lie, and maps that are moved move the
    image. A generator with weights per place puts the marks of a class into the same places each
    time, by which a classifier then knows the class. Cut the image out of a larger one, or its
    opposite borders fit each other.

    :param size: Height and width of the image, multiples of 16
    :param n_classes: Number of classes
    :param width: Channels at full resolution; coarser stages have up to 8 times as many
    :param latent: Length of the latent vector
    """

    def __init__(self, size: tuple[int, int], n_classes: int, width: int, latent: int) -> None:
        super().__init__()
        height, breadth = size
        self.latent = latent

        # Sizes of the noise maps, from the smallest grid to the image.
        self.grid = (height >> STAGES, breadth >> STAGES)
        self.noise_sizes = [(height >> s, breadth >> s) for s in reversed(range(STAGES))]
        coarse_length = COARSE_MAPS * self.grid[0] * self.grid[1]
        self.noise_lengths = [coarse_length, *(h * w for h, w in self.noise_sizes)]
        self.latent_length = latent + sum(self.noise_lengths)

        # Layers. The order of their creation decides the initial weights.
        channels = [width * factor for factor in CHANNEL_FACTORS]
        condition = 2 * latent
        self.embedding = nn.Embedding(n_classes, latent)
        self.stem = nn.Linear(condition, channels[0])
        self.places = nn.Conv2d(COARSE_MAPS, channels[0], 1, bias=False)
        self.blocks = nn.ModuleList(
            GeneratorBlock(a, b, condition) for a, b in zip(channels, channels[1:])
        )
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = CircularConv2d(channels[-1], 3)

    # (b, latent_length), (b,) -> (b, 3, h, w) in -1..1
    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Generate one image per latent and label."""
        # The condition of every block, and the smallest map.
        vector, coarse, *noises = z.split([self.latent, *self.noise_lengths], dim=1)
        condition = torch.cat([vector, self.embedding(labels)], dim=1)
        x = self.stem(condition)[:, :, None, None]
        x = x + self.places(coarse.view(-1, COARSE_MAPS, *self.grid))

        # Four doublings, each with its own noise.
        x = x.contiguous(memory_format=torch.channels_last)
        for block, noise, size in zip(self.blocks, noises, self.noise_sizes):
            x = block(x, condition, noise.view(-1, 1, *size))
        return torch.tanh(self.to_rgb(F.relu(self.norm(x))))


class ResidualBlock(nn.Module):
    """Two normalised convolutions that halve the sides, beside a 1×1 shortcut.

    :param c_in: Channels of the input
    :param c_out: Channels of the output
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(c_in, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, c_in, h, w) -> (b, c_out, h/2, w/2)
        """Apply both branches and add them."""
        y = self.body(x)
        # Every second pixel, and not a stride of 2: with one, torch 2.14's backward of a 1×1
        # convolution writes past its memory if there are fewer than 8 channels (AMD, AVX2).
        return F.relu(y + self.shortcut(x[:, :, ::2, ::2]))


class FeatureNetwork(nn.Module):
    """Small residual network whose features the discriminator judges.

    It learns the real images before the GAN and is frozen then, see
    :func:`~synthselect_env.synthesis.pretraining.pretrain`.

    :param width: Channels at full resolution; :attr:`channels` has those of all scales
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = [width, width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(a, b) for a, b in zip(self.channels, self.channels[1:])
        )

    # (b, 3, h, w) in -1..1 -> (b, c, h / 2**s, w / 2**s) for s in 0..4
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return feature maps of five scales, the finest first."""
        maps = [self.stem(x)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


class PixelBlock(nn.Module):
    """Residual block of the discriminator on pixels, which halves the sides.

    :param c_in: Channels of the input
    :param c_out: Channels of the output
    :param first: Whether the input is an image. A ReLU would throw its dark half away
    """

    def __init__(self, c_in: int, c_out: int, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.conv1 = spectral_norm(nn.Conv2d(c_in, c_out, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(c_in, c_out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, c_in, h, w) -> (b, c_out, h/2, w/2)
        """Apply both branches and add them."""
        y = self.conv1(x if self.first else F.relu(x))
        y = F.avg_pool2d(self.conv2(F.relu(y)), 2)
        return y + self.shortcut(F.avg_pool2d(x, 2))


class Head(nn.Module):
    """Judge of every place of one feature map.

    :param channels: Channels of the map
    :param hidden: Channels inside the head
    :param n_classes: Number of classes
    :param stride: Stride of the first convolution, 2 for fine maps
    :param group: Number of images whose spread is appended to the map, see :class:`Discriminator`;
        0 for none
    """

    def __init__(
        self, channels: int, hidden: int, n_classes: int, stride: int, group: int = 0
    ) -> None:
        super().__init__()
        self.group = group
        self.mix = nn.Conv2d(channels, hidden, 1).requires_grad_(False)
        nn.init.kaiming_normal_(self.mix.weight, nonlinearity="linear")
        inner = hidden + 1 if group else hidden
        self.conv1 = spectral_norm(nn.Conv2d(hidden, hidden, 3, stride, 1))
        self.conv2 = spectral_norm(nn.Conv2d(inner, hidden, 3, 1, 1))
        self.score = nn.Conv2d(hidden, 1, 1)
        self.projection = nn.Embedding(n_classes, hidden)
        nn.init.zeros_(self.projection.weight)

    @torch.no_grad()
    def calibrate(self, features: torch.Tensor) -> None:
        """Scale the random mixture to zero mean and unit variance per channel.

        :param features: Feature maps of real images (b, c, h, w)
        """
        weight, bias = self.mix.weight, self.mix.bias
        assert bias is not None
        bias.zero_()
        mixed = self.mix(features).float()
        deviation = mixed.std((0, 2, 3)).clamp_min(1e-6)
        weight.div_(deviation.view(-1, 1, 1, 1))
        bias.copy_(-mixed.mean((0, 2, 3)) / deviation)

    # (b, c, h, w), (b,) -> (b, places)
    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the realness of each place, given the class of each image."""
        x = F.leaky_relu(self.conv1(self.mix(features)), SLOPE)
        if self.group:
            x = torch.cat([x, self._spread(x)], 1)
        x = F.leaky_relu(self.conv2(x), SLOPE)
        by_class = x.float() * self.projection(labels)[:, :, None, None]
        by_class = by_class.sum(1, keepdim=True)
        return (self.score(x).float() + by_class).flatten(1)

    def _spread(self, x: torch.Tensor) -> torch.Tensor:  # (b, c, h, w) -> (b, 1, h, w)
        """Return a map of how much the images of each group differ."""
        groups = x.float().unflatten(0, (-1, self.group))
        deviation = (groups.var(1, unbiased=False) + 1e-8).sqrt()
        spread = deviation.mean((1, 2, 3)).repeat_interleave(self.group)
        return spread.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:]).to(x.dtype)


class Discriminator(nn.Module):
    """Network from image and class to realness scores, on frozen features and on pixels.

    The features have five scales (Projected GAN, Sauer et al. 2021). They come from a network that
    was trained on the real training images, where the original takes one of ImageNet's: a
    discriminator that starts from nothing learns too little of the classes in as many steps as a
    small set allows. Channels are mixed at random once, as in the original; scales are not mixed.

    Two trained blocks look at the pixels, since a generator can fool a frozen network with a spot
    in a corner. The coarsest head is also told how much the images of a group differ, which exposes
    a generator that repeats itself.

    :param n_classes: Number of classes
    :param width: Width of the feature network; heads have twice as many channels
    :param batch_size: Images of one kind, real or generated, that come together
    """

    def __init__(self, n_classes: int, width: int, batch_size: int) -> None:
        super().__init__()
        self.features = FeatureNetwork(width).requires_grad_(False).eval()
        self.pixels = nn.Sequential(
            PixelBlock(3, width, first=True),
            PixelBlock(width, 2 * width),
        )
        group = math.gcd(batch_size, REPETITION_GROUP)
        # One head on the pixels, five on the features. Maps of at least half the image's side
        # are halved, which spares three quarters of the work.
        channels = (2 * width, *self.features.channels)
        strides = (1, 2, 2, 2, 1, 1)
        groups = (0, 0, 0, 0, 0, group)
        self.heads = nn.ModuleList(
            Head(c, 2 * width, n_classes, stride, of_group)
            for c, stride, of_group in zip(channels, strides, groups)
        )

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the map that each head judges.

        :param x: Images (b, 3, h, w) in -1..1
        :return: One map (b, c, h', w') per head
        """
        return [self.pixels(x), *self.features(x)]

    @torch.no_grad()
    def calibrate(self, images: torch.Tensor) -> None:
        """Fit the heads' inputs to the range of real images' maps.

        :param images: Real images (b, 3, h, w) in -1..1
        """
        for head, features in zip(self.heads, self.maps(images)):
            head.calibrate(features)  # type: ignore[operator]

    # (b, 3, h, w) in -1..1, (b,) -> (b, places) per head
    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        """Return the scores of each head."""
        return [head(features, labels) for head, features in zip(self.heads, self.maps(x))]
