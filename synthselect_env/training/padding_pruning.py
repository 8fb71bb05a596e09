"""Faster training on small images, by leaving out kernel weights that only meet padding.

Deep stages of a network see feature maps of one or two pixels if the images are small. There, the
outer weights of a padded kernel are always multiplied by the zeros around the map. Left out, they
cost nothing, and the network computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil

import torch
from torch import nn

Window = tuple[slice, slice, slice, slice]


def used_kernel_range(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[int, int] | None:
    """Return the range of kernel weights that meet a pixel, in one dimension.

    :param size: pixels of the input, without padding
    :param kernel: weights of the kernel
    :param stride: stride of the convolution
    :param padding: zeros on each side of the input
    :param dilation: distance of neighbouring weights, in pixels
    :return: first used weight and the one after the last, or None if all weights meet padding only
    """
    n_outputs = _count_outputs(size, kernel, stride, padding, dilation)
    used = []
    for weight in range(kernel):
        # The first output in which the weight lies past the padding on the near side.
        offset = dilation * weight - padding
        first = max(0, ceil(-offset / stride))
        pixel = first * stride + offset
        if first < n_outputs and pixel < size:
            used.append(weight)
    if not used:
        return None
    return used[0], used[-1] + 1


def minimal_kernel(
    sizes: set[int], kernel: int, stride: int, padding: int, dilation: int
) -> tuple[int, int, int]:
    """Return the smallest part of a kernel that gives the same outputs, in one dimension.

    :param sizes: pixels of all inputs, without padding
    :param kernel: weights of the kernel
    :param stride: stride of the convolution
    :param padding: zeros on each side of the input
    :param dilation: distance of neighbouring weights, in pixels
    :return: start and stop of the part, and the padding that it needs
    """
    whole = (0, kernel, padding)
    starts, stops = [], []
    for size in sizes:
        used = used_kernel_range(size, kernel, stride, padding, dilation)
        if used is not None:
            starts.append(used[0])
            stops.append(used[1])
    start = min(starts, default=0)
    stop = max(stops, default=kernel)

    # Keep the whole kernel if the part would need different paddings on the two sides.
    new_padding = padding - dilation * start
    if new_padding < 0:
        return whole
    for size in sizes:
        before = _count_outputs(size, kernel, stride, padding, dilation)
        after = _count_outputs(size, stop - start, stride, new_padding, dilation)
        if after != before:
            return whole
    return start, stop, new_padding


def _count_outputs(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    extent = dilation * (kernel - 1) + 1
    last_place = size + 2 * padding - extent
    return last_place // stride + 1


@contextmanager
def without_padding_weights(network: nn.Module, *sizes: Sequence[int]) -> Iterator[None]:
    """Leave out, inside the block, the weights of convolutions that only meet padding.

    The network computes the same. Its parameters are other ones inside the block, so build the
    optimizer there. After the block it has all weights again; those left out are unchanged.

    :param network: network that takes (b, 3, h, w). Convolutions that do not pad with zeros, or
        whose padding is given by name, are left alone
    :param sizes: (height, width) of all images that the network will see inside the block
    """
    pruned: list[tuple[nn.Conv2d, nn.Parameter, tuple[int, ...], Window]] = []
    for convolution, input_sizes in _input_sizes(network, sizes).items():
        window, padding = _minimal_window(convolution, input_sizes)
        weight = convolution.weight
        old_padding = convolution.padding
        part = weight.detach()[window]
        if part.shape != weight.shape:
            pruned.append((convolution, weight, old_padding, window))  # type: ignore[arg-type]
            _replace_weight(convolution, _cloned(part, weight), padding)
    try:
        yield
    finally:
        for convolution, weight, old_padding, window in pruned:
            with torch.no_grad():
                weight[window] = convolution.weight
            _replace_weight(convolution, weight, old_padding)


def _input_sizes(
    network: nn.Module, sizes: Sequence[Sequence[int]]
) -> dict[nn.Conv2d, set[tuple[int, int]]]:
    """Return the (height, width) of each convolution's inputs, by running the network."""
    seen: dict[nn.Conv2d, set[tuple[int, int]]] = {}

    def note_size(module: nn.Conv2d, inputs: tuple[torch.Tensor, ...]) -> None:
        height, width = inputs[0].shape[-2:]
        seen.setdefault(module, set()).add((height, width))

    hooks = [
        module.register_forward_pre_hook(note_size)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    ]
    training = network.training
    like = next(network.parameters())
    try:
        network.eval()
        with torch.no_grad():
            for height, width in sizes:
                network(like.new_zeros(1, 3, height, width))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return seen


def _minimal_window(
    convolution: nn.Conv2d, input_sizes: set[tuple[int, int]]
) -> tuple[Window, tuple[int, ...]]:
    """Return the part of a convolution's weight that it needs, and the padding of that part."""
    slices, paddings = [], []
    for axis in range(2):
        start, stop, padding = minimal_kernel(
            {size[axis] for size in input_sizes},
            convolution.kernel_size[axis],
            convolution.stride[axis],
            int(convolution.padding[axis]),
            convolution.dilation[axis],
        )
        slices.append(slice(start, stop))
        paddings.append(padding)
    rows, columns = slices
    window = (slice(None), slice(None), rows, columns)
    return window, tuple(paddings)


def _cloned(part: torch.Tensor, weight: torch.Tensor) -> nn.Parameter:
    """Return a copy of part of a weight, in the weight's memory format."""
    channels_last = weight.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return nn.Parameter(part.clone(memory_format=memory_format))


def _replace_weight(convolution: nn.Conv2d, weight: nn.Parameter, padding: tuple[int, ...]) -> None:
    height, width = weight.shape[-2:]
    convolution.weight = weight
    convolution.kernel_size = (height, width)
    convolution.padding = padding  # type: ignore[assignment]
