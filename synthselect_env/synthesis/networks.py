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
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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


def _conv3x3(c_in: int, c_out: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a 3×3 convolution whose output is as large as the input, divided by the stride."""
    return nn.Conv2d(
        c_in,
        c_out,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=bias,
    )


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
    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalise, then scale and shift each channel by the condition."""
        gain_bias = self.gain_bias(condition)[:, :, None, None]
        gain, bias = gain_bias.chunk(2, dim=1)
        return self.norm(x) * (1 + gain) + bias


class CircularPad(torch.autograd.Function):
    """Add a border of one pixel from the opposite side.

    Equals ``F.pad(x, (1, 1, 1, 1), mode="circular")``, with a gradient that copies less.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # (b, c, h, w) -> (b, c, h + 2, w + 2)
        """Pad the rows, then the columns."""
        top = x[:, :, :1]
        bottom = x[:, :, -1:]
        x = torch.cat([bottom, x, top], dim=2)
        left = x[..., :1]
        right = x[..., -1:]
        return torch.cat([right, x, left], dim=3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Add the border's gradient to that of the pixels it was copied from."""
        (outer,) = gradients  # (b, c, h + 2, w + 2)
        rows = outer[:, :, 1:-1].clone()
        rows[:, :, -1] += outer[:, :, 0]
        rows[:, :, 0] += outer[:, :, -1]
        inner = rows[..., 1:-1].clone()
        inner[..., -1] += rows[..., 0]
        inner[..., 0] += rows[..., -1]
        return inner


def _upsample(x: Tensor) -> Tensor:  # (b, c, h, w) -> (b, c, 2h, 2w)
    # Bilinear: repeated pixels leave a checkerboard, by which a classifier knows generated classes.
    padded = CircularPad.apply(x)
    doubled = F.interpolate(
        padded,
        scale_factor=2.0,
        mode="bilinear",
        align_corners=False,
    )
    return doubled[:, :, 2:-2, 2:-2]


class CircularConv2d(nn.Conv2d):
    """3×3 convolution on an image whose opposite borders meet.

    :param c_in: Channels of the input
    :param c_out: Channels of the output
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:  # (b, c_in, h, w) -> (b, c_out, h, w)
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
        initial_strength = torch.full((1, c_out, 1, 1), 0.1)
        self.noise_strength = nn.Parameter(initial_strength)
        self.norm1 = ConditionalBatchNorm(c_in, condition)
        self.norm2 = ConditionalBatchNorm(c_out, condition)
        self.conv1 = CircularConv2d(c_in, c_out)
        self.conv2 = CircularConv2d(c_out, c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, kernel_size=1)

    # (b, c_in, h, w), (b, condition), (b, 1, 2h, 2w) -> (b, c_out, 2h, 2w)
    def forward(self, x: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        """Apply both branches and add them."""
        y = F.relu(self.norm1(x, condition))
        y = self.conv1(_upsample(y))
        y = y + self.noise_strength * noise
        y = F.relu(self.norm2(y, condition))
        y = self.conv2(y)
        shortcut = _upsample(self.shortcut(x))
        return y + shortcut


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

    def __init__(
        self,
        size: tuple[int, int],
        n_classes: int,
        width: int,
        latent: int,
    ) -> None:
        super().__init__()
        height, breadth = size
        self.latent = latent

        # Sizes of the noise maps, from the smallest grid to the image.
        self.grid = (height >> STAGES, breadth >> STAGES)
        self.noise_sizes = [(height >> s, breadth >> s) for s in reversed(range(STAGES))]
        coarse_length = COARSE_MAPS * math.prod(self.grid)
        block_lengths = [math.prod(noise_size) for noise_size in self.noise_sizes]
        self.noise_lengths = [coarse_length, *block_lengths]
        self.latent_length = latent + sum(self.noise_lengths)

        # Layers. The order of their creation decides the initial weights.
        channels = [width * factor for factor in CHANNEL_FACTORS]
        condition = 2 * latent
        self.embedding = nn.Embedding(n_classes, latent)
        self.stem = nn.Linear(condition, channels[0])
        self.places = nn.Conv2d(COARSE_MAPS, channels[0], kernel_size=1, bias=False)
        self.blocks = nn.ModuleList()
        for c_in, c_out in pairwise(channels):
            self.blocks.append(GeneratorBlock(c_in, c_out, condition))
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = CircularConv2d(channels[-1], 3)

    # (b, latent_length), (b,) -> (b, 3, h, w) in -1..1
    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Generate one image per latent and label."""
        # The condition of every block, and the smallest map.
        lengths = [self.latent, *self.noise_lengths]
        vector, coarse, *noises = z.split(lengths, dim=1)
        class_vector = self.embedding(labels)
        condition = torch.cat([vector, class_vector], dim=1)
        everywhere = self.stem(condition)[:, :, None, None]
        coarse_maps = coarse.view(-1, COARSE_MAPS, *self.grid)
        x = everywhere + self.places(coarse_maps)

        # Four doublings, each with its own noise.
        x = x.contiguous(memory_format=torch.channels_last)
        for block, noise, size in zip(self.blocks, noises, self.noise_sizes):
            noise_map = noise.view(-1, 1, *size)
            x = block(x, condition, noise_map)

        x = F.relu(self.norm(x))
        return torch.tanh(self.to_rgb(x))


class ResidualBlock(nn.Module):
    """Two normalised convolutions that halve the sides, beside a 1×1 shortcut.

    :param c_in: Channels of the input
    :param c_out: Channels of the output
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv3x3(c_in, c_out, stride=2, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            _conv3x3(c_out, c_out, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(c_in, c_out, kernel_size=1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:  # (b, c_in, h, w) -> (b, c_out, h/2, w/2)
        """Apply both branches and add them."""
        y = self.body(x)
        # Every second pixel, and not a stride of 2: with one, torch 2.14's backward of a 1×1
        # convolution writes past its memory if there are fewer than 8 channels (AMD, AVX2).
        # Taken after the body: this order decides in which order the gradients of x add up.
        halved = x[:, :, ::2, ::2]
        return F.relu(y + self.shortcut(halved))


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
            _conv3x3(3, width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList()
        for c_in, c_out in pairwise(self.channels):
            self.blocks.append(ResidualBlock(c_in, c_out))

    # (b, 3, h, w) in -1..1 -> (b, c, h / 2**s, w / 2**s) for s in 0..4
    def forward(self, x: Tensor) -> list[Tensor]:
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
        self.conv1 = spectral_norm(_conv3x3(c_in, c_out))
        self.conv2 = spectral_norm(_conv3x3(c_out, c_out))
        shortcut = nn.Conv2d(c_in, c_out, kernel_size=1)
        self.shortcut = spectral_norm(shortcut)

    def forward(self, x: Tensor) -> Tensor:  # (b, c_in, h, w) -> (b, c_out, h/2, w/2)
        """Apply both branches and add them."""
        y = x if self.first else F.relu(x)
        y = F.relu(self.conv1(y))
        y = F.avg_pool2d(self.conv2(y), 2)
        halved = F.avg_pool2d(x, 2)
        return y + self.shortcut(halved)


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
        self,
        channels: int,
        hidden: int,
        n_classes: int,
        stride: int,
        group: int = 0,
    ) -> None:
        super().__init__()
        self.group = group
        self.mix = nn.Conv2d(channels, hidden, kernel_size=1)
        self.mix.requires_grad_(False)
        nn.init.kaiming_normal_(self.mix.weight, nonlinearity="linear")
        inner = hidden + 1 if group else hidden
        self.conv1 = spectral_norm(_conv3x3(hidden, hidden, stride))
        self.conv2 = spectral_norm(_conv3x3(inner, hidden))
        self.score = nn.Conv2d(hidden, 1, kernel_size=1)
        self.projection = nn.Embedding(n_classes, hidden)
        nn.init.zeros_(self.projection.weight)

    @torch.no_grad()
    def calibrate(self, features: Tensor) -> None:
        """Scale the random mixture to zero mean and unit variance per channel.

        :param features: Feature maps of real images (b, c, h, w)
        """
        weight, bias = self.mix.weight, self.mix.bias
        assert bias is not None
        bias.zero_()
        mixed = self.mix(features).float()
        mean = mixed.mean((0, 2, 3))
        deviation = mixed.std((0, 2, 3)).clamp_min(1e-6)
        weight.div_(deviation.view(-1, 1, 1, 1))
        bias.copy_(-mean / deviation)

    # (b, c, h, w), (b,) -> (b, places)
    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the realness of each place, given the class of each image."""
        x = self.mix(features)
        x = F.leaky_relu(self.conv1(x), SLOPE)
        if self.group:
            spread = self._spread(x)
            x = torch.cat([x, spread], dim=1)
        x = F.leaky_relu(self.conv2(x), SLOPE)

        # A score for any class, and one for the image's own.
        projection = self.projection(labels)[:, :, None, None]
        by_class = x.float() * projection
        by_class = by_class.sum(1, keepdim=True)
        scores = self.score(x).float() + by_class
        return scores.flatten(1)

    def _spread(self, x: Tensor) -> Tensor:  # (b, c, h, w) -> (b, 1, h, w)
        """Return a map of how much the images of each group differ."""
        groups = x.float().unflatten(0, (-1, self.group))
        variance = groups.var(1, unbiased=False)
        deviation = (variance + 1e-8).sqrt()
        spread = deviation.mean((1, 2, 3))  # one number per group

        # Give each image the number of its group, at all places.
        spread = spread.repeat_interleave(self.group)
        spread = spread.view(-1, 1, 1, 1)
        height, width = x.shape[2:]
        return spread.expand(-1, 1, height, width).to(x.dtype)


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

        # One head on the pixels, five on the features. Maps of at least half the image's side
        # are halved, which spares three quarters of the work.
        channels = (2 * width, *self.features.channels)
        strides = (1, 2, 2, 2, 1, 1)
        last_group = math.gcd(batch_size, REPETITION_GROUP)
        groups = (0, 0, 0, 0, 0, last_group)
        hidden = 2 * width
        self.heads = nn.ModuleList()
        for c, stride, group in zip(channels, strides, groups):
            self.heads.append(Head(c, hidden, n_classes, stride, group))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the map that each head judges.

        :param x: Images (b, 3, h, w) in -1..1
        :return: One map (b, c, h', w') per head
        """
        return [self.pixels(x), *self.features(x)]

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Fit the heads' inputs to the range of real images' maps.

        :param images: Real images (b, 3, h, w) in -1..1
        """
        maps = self.maps(images)
        for head, features in zip(self.heads, maps):
            head.calibrate(features)  # type: ignore[operator]

    # (b, 3, h, w) in -1..1, (b,) -> (b, places) per head
    def forward(self, x: Tensor, labels: Tensor) -> list[Tensor]:
        """Return the scores of each head."""
        maps = self.maps(x)
        return [head(features, labels) for head, features in zip(self.heads, maps)]
