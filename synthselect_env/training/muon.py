"""Muon: an optimizer whose steps have the same size in all directions of a weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from synthselect_env.training.device import has_bfloat16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, from the reference implementation."""

ITERATIONS = 5
"""Newton-Schulz iterations. They bring singular values near 1, not to it."""


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz iterations (Jordan et al. 2024).

    Each weight is a matrix with a row per output channel. Before a step it is scaled to norm 1 per
    row on average, as batch norm follows and makes the scale irrelevant. All work is on the device,
    so that a CUDA graph can replay it.

    .. code-block:: python

        Muon([network.features[3].weight], lr=torch.tensor(0.03))

    :param parameters: weights of convolutions, (out, in, h, w)
    :param lr: learning rate, a tensor (): a change of its value changes the next step
    :param momentum: decay of the momentum, Nesterov's
    """

    def __init__(
        self, parameters: Iterable[torch.Tensor], lr: torch.Tensor, momentum: float = 0.6
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            momentum = group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:  # e.g. of an auxiliary head
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"]
                average.mul_(momentum).add_(weight.grad)
                direction = weight.grad.add(average, alpha=momentum)
                update = orthogonalised(direction.reshape(len(weight), -1)).view_as(weight)
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_(group["lr"] * update)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix with the same singular vectors, and singular values near 1.

    :param matrix: (rows, columns)
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    if has_bfloat16(matrix.device):
        x = x.bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)
