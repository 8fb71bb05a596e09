"""Convolutions without the weights that only ever meet the zeros around a small image.

A ResNet18 at 32×32 pixels has one pixel left in its last stage. Of a padded 3×3 kernel the eight outer weights are multiplied by zeros
there, forwards and backwards, and they are most of the network: 7 of its 11 million. Left out, the same training takes half the time
(benchmarks/retraining_cost.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil

import torch
from torch import nn


def _outputs(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many outputs a convolution has in one dimension."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def used_kernel_range(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[int, int] | None:
    """The first weight of a kernel that meets a pixel and the one after the last, in one dimension; None where none does.

    :param size: pixels without padding
    """
    outputs = _outputs(size, kernel, stride, padding, dilation)
    used = []
    for weight in range(kernel):
        offset = dilation * weight - padding  # the pixel that it meets in the first output
        first = max(
            0, ceil(-offset / stride)
        )  # the first output in which that is no padding on the near side
        if first < outputs and first * stride + offset < size:
            used.append(weight)
    return (used[0], used[-1] + 1) if used else None


def minimal_kernel(
    extents: set[int], kernel: int, stride: int, padding: int, dilation: int
) -> tuple[int, int, int]:
    """Start and stop of the part of a kernel that gives the same outputs, and the padding that it needs, in one dimension.

    :param extents: sizes of the inputs
    """
    spans = [
        span
        for span in (used_kernel_range(n, kernel, stride, padding, dilation) for n in extents)
        if span
    ]
    start, stop = min((a for a, _ in spans), default=0), max((b for _, b in spans), default=kernel)
    near = padding - dilation * start
    if near < 0 or any(
        _outputs(n, stop - start, stride, near, dilation)
        != _outputs(n, kernel, stride, padding, dilation)
        for n in extents
    ):
        return 0, kernel, padding  # would need another padding on each side
    return start, stop, near


@contextmanager
def without_padding_weights(network: nn.Module, *sizes: Sequence[int]) -> Iterator[None]:
    """Let the network's convolutions go, inside, without the weights that meet padding only. What it computes stays the same.

    Its parameters are others inside, so an optimizer is to be built there; afterwards it has all its weights again, those that
    were left out as they were before.

    :param network: takes (b, 3, h, w); its convolutions' padding must be zeros to be trimmed
    :param sizes: (height, width) of all images that it will see inside
    """
    seen: dict[nn.Conv2d, set[tuple[int, int]]] = {}
    fitting = [
        m
        for m in network.modules()
        if isinstance(m, nn.Conv2d) and m.padding_mode == "zeros" and not isinstance(m.padding, str)
    ]
    hooks = [
        m.register_forward_pre_hook(
            lambda m, inputs: seen.setdefault(m, set()).add(tuple(inputs[0].shape[-2:]))
        )
        for m in fitting
    ]
    training, like = network.training, next(network.parameters())
    try:
        with torch.no_grad():
            network.eval()
            for height, width in sizes:
                network(like.new_zeros(1, 3, height, width))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()

    whole: list[tuple[nn.Conv2d, nn.Parameter, tuple[int, int], tuple[slice, ...]]] = []
    for convolution, extents in seen.items():
        rows, columns = (
            minimal_kernel(
                {e[i] for e in extents},
                *(
                    getattr(convolution, name)[i]
                    for name in ("kernel_size", "stride", "padding", "dilation")
                ),
            )
            for i in range(2)
        )
        window: tuple[slice, ...] = (
            slice(None),
            slice(None),
            slice(*rows[:2]),
            slice(*columns[:2]),
        )
        weight, padding = convolution.weight, convolution.padding
        part = weight.detach()[window]
        if part.shape == weight.shape:
            continue
        whole.append((convolution, weight, padding, window))  # type: ignore[arg-type]
        last = weight.is_contiguous(memory_format=torch.channels_last)
        convolution.weight = nn.Parameter(
            part.clone(memory_format=torch.channels_last if last else torch.contiguous_format)
        )
        convolution.kernel_size, convolution.padding = tuple(part.shape[-2:]), (rows[2], columns[2])  # type: ignore[assignment]
    try:
        yield
    finally:
        for convolution, weight, padding, window in whole:
            with torch.no_grad():
                weight[window] = convolution.weight
            convolution.weight, convolution.padding = weight, padding
            convolution.kernel_size = tuple(weight.shape[-2:])  # type: ignore[assignment]
