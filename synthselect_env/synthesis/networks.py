"""HistoGAN's networks: a class-conditional residual generator and a projection discriminator.

The paper gives its HistoGAN only in a supplement that is not public; these are ours, on common practice: conditional
batch normalisation with a latent in every block (BigGAN, Brock et al. 2019), spectral normalisation (Miyato et al. 2018),
a class projection in the discriminator (Miyato and Koyama 2018) and, on request, self-attention (Zhang et al. 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

STAGES = 4
"""Doublings from the smallest grid to the picture; sides are multiples of 2**STAGES."""

ATTENDED = 2
"""Blocks before the self-attention: in both networks the grid then has a quarter of the picture's side, 144 places at 48×48 pixels
and 2,048 at 256×128. One stage finer would cost sixteen times as much."""


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


class SelfAttention(nn.Module):
    """Each place of the grid adds what it finds at all others (SAGAN, Zhang et al. 2019).  (b, c, h, w) -> (b, c, h, w)

    The strength of the addition is learned and starts at zero, as in the original. Queries, keys and values all have a quarter of the
    channels, so that torch's memory-saving attention takes them.

    :param channels: channels of the input
    :param normalise: spectral normalisation, for the discriminator
    """

    def __init__(self, channels: int, normalise: bool) -> None:
        super().__init__()
        inner = max(1, channels // 4)
        self.project, self.out = nn.Conv2d(channels, 3 * inner, 1), nn.Conv2d(inner, channels, 1)
        if normalise:
            spectral_norm(self.project)
            spectral_norm(self.out)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, c, h, w)"""
        queries, keys, values = self.project(x).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=3)  # (b, 1, h·w, inner) each
        found = F.scaled_dot_product_attention(queries, keys, values).squeeze(1).transpose(1, 2)  # (b, inner, h·w)
        return x + self.strength * self.out(found.unflatten(2, x.shape[2:]))


class GeneratorBlock(nn.Module):
    """Norm, ReLU, upsample, convolve, twice over, beside an upsampled 1×1 shortcut.  (b, c_in, h, w) -> (b, c_out, 2h, 2w)

    Noise joins after the first convolution, with a learned strength a channel (StyleGAN, Karras et al. 2019): where each
    nucleus lies is chance, and a network that is handed the chance needs not make it from a vector.
    """

    def __init__(self, c_in: int, c_out: int, condition: int) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.full((1, c_out, 1, 1), 0.1))
        self.norm1, self.norm2 = ConditionalBatchNorm(c_in, condition), ConditionalBatchNorm(c_out, condition)
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: torch.Tensor, condition: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """(b, c_in, h, w), (b, condition), (b, 1, 2h, 2w) -> (b, c_out, 2h, 2w)"""
        y = F.interpolate(F.relu(self.norm1(x, condition)), scale_factor=2.0, mode="nearest")
        y = self.conv1(y) + self.noise_strength * noise
        y = self.conv2(F.relu(self.norm2(y, condition)))
        return y + F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest")


class Generator(nn.Module):
    """Latent and class to picture.

    A latent is a vector of length ``latent`` that conditions every block, followed by the noise maps
    of all blocks; :attr:`latent_length` numbers in all, standard normal.

    :param size: (height, width), multiples of 16
    :param n_classes: number of classes
    :param width: channels at full resolution; coarser stages have 2, 4 and 8 times as many
    :param latent: length of the latent vector
    :param attention: self-attention at a quarter of the picture's side
    """

    def __init__(self, size: tuple[int, int], n_classes: int, width: int, latent: int, attention: bool = False) -> None:
        super().__init__()
        self.latent = latent
        self.grid = (size[0] >> STAGES, size[1] >> STAGES)
        self.noise_sizes = [(size[0] >> s, size[1] >> s) for s in reversed(range(STAGES))]
        self.latent_length = latent + sum(h * w for h, w in self.noise_sizes)
        channels = [width * m for m in (8, 8, 4, 2, 1)]
        self.embedding = nn.Embedding(n_classes, latent)
        self.stem = nn.Linear(2 * latent, channels[0] * self.grid[0] * self.grid[1])
        self.blocks = nn.ModuleList(GeneratorBlock(a, b, 2 * latent) for a, b in zip(channels, channels[1:]))
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)
        # without it nothing is drawn and nothing named: seeds and checkpoints of before the option give the same networks
        self.attention = SelfAttention(channels[ATTENDED], normalise=False) if attention else nn.Identity()

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(b, latent_length), (b,) -> (b, 3, h, w) in -1..1"""
        vector, *noises = z.split([self.latent, *(h * w for h, w in self.noise_sizes)], dim=1)
        condition = torch.cat([vector, self.embedding(labels)], dim=1)
        x = self.stem(condition).view(len(z), -1, *self.grid).contiguous(memory_format=torch.channels_last)
        for i, (block, noise, size) in enumerate(zip(self.blocks, noises, self.noise_sizes)):
            x = block(self.attention(x) if i == ATTENDED else x, condition, noise.view(-1, 1, *size))
        return torch.tanh(self.to_rgb(F.relu(self.norm(x))))


class DiscriminatorBlock(nn.Module):
    """ReLU, convolve, twice over, halve, beside a 1×1 shortcut.  (b, c_in, h, w) -> (b, c_out, h/2, w/2)"""

    def __init__(self, c_in: int, c_out: int, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.conv1 = spectral_norm(nn.Conv2d(c_in, c_out, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(c_in, c_out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c_in, h, w) -> (b, c_out, h/2, w/2)"""
        y = self.conv1(x if self.first else F.relu(x))  # a ReLU on pixels would throw the dark half away
        y = F.avg_pool2d(self.conv2(F.relu(y)), 2)
        return y + self.shortcut(F.avg_pool2d(x, 2))


class Discriminator(nn.Module):
    """Picture and class to a realness score.

    :param n_classes: number of classes
    :param width: channels of the first block; later ones have 2, 4 and 8 times as many
    :param attention: self-attention at a quarter of the picture's side
    """

    def __init__(self, n_classes: int, width: int, attention: bool = False) -> None:
        super().__init__()
        channels = [3] + [width * m for m in (1, 2, 4, 8)]
        self.blocks = nn.Sequential(*(DiscriminatorBlock(a, b, first=a == 3) for a, b in zip(channels, channels[1:])))
        self.score = spectral_norm(nn.Linear(channels[-1], 1))
        self.projection = spectral_norm(nn.Embedding(n_classes, channels[-1]))
        self.attention = SelfAttention(channels[ATTENDED], normalise=True) if attention else nn.Identity()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w), (b,) -> (b,)"""
        x = self.blocks[ATTENDED:](self.attention(self.blocks[:ATTENDED](x)))
        h = F.relu(x).sum(dim=(2, 3)).float()
        return self.score(h).squeeze(1) + (h * self.projection(labels)).sum(1)
