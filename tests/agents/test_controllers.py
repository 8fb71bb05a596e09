"""Controllers against their equations, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.controllers import (
    Controller,
    GRUAttentionController,
    GRUController,
    TransformerController,
)
from agents.controllers.transformer import sinusoidal_positions

CONTROLLERS = [TransformerController, GRUController, GRUAttentionController]
CPU = torch.device("cpu")


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_transformer() -> None:
    """One layer against softmax(QKᵀ/√d)V."""
    controller = TransformerController(5, width=8, n_layers=1, n_heads=2).double().eval()
    layer = controller.encoder.layers[0]
    attention = layer.self_attn
    x = rows(2, 6, 5).double()
    h = controller.project(x) + sinusoidal_positions(6, 8, CPU).double()
    projected = torch.nn.functional.linear(
        layer.norm1(h), attention.in_proj_weight, attention.in_proj_bias
    )
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        q, k, v = (part[..., head] for part in projected.chunk(3, dim=2))
        weights = torch.softmax(q @ k.transpose(1, 2) / 4**0.5, dim=2)
        heads.append(weights @ v)
    h = h + attention.out_proj(torch.cat(heads, dim=2))
    h = h + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer.norm2(h))))
    states, pooled = controller(x)
    assert torch.allclose(states, controller.encoder.norm(h), atol=1e-6)
    assert torch.allclose(pooled, states.mean(1))


def test_positions() -> None:
    table = sinusoidal_positions(3, 4, CPU)
    expected = [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)]
    assert table[2].tolist() == pytest.approx(expected, abs=1e-6)


def test_rank_is_all_that_breaks_equivariance() -> None:
    controller = TransformerController(5, width=8).eval()
    x = rows(1, 7, 5)
    order = torch.tensor([3, 1, 0, 2, 6, 5, 4])
    assert not torch.allclose(controller(x)[0][:, order], controller(x[:, order])[0], atol=1e-4)
    # The encoder alone: the positions that it adds are subtracted before
    projected = controller.project(x)
    positions = sinusoidal_positions(7, 8, CPU)
    controller.project = torch.nn.Identity()
    states, _ = controller(projected - positions)
    permuted, _ = controller(projected[:, order] - positions)
    assert torch.allclose(states[:, order], permuted, atol=1e-5)


def unrolled(recurrence: torch.nn.GRU, inputs: torch.Tensor, suffix: str = "") -> torch.Tensor:
    """Return the states of a gated recurrent unit, by the equations of Cho et al. (2014)."""
    weights = [f"{name}_l0{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    w_in, w_h, b_in, b_h = (getattr(recurrence, name) for name in weights)
    h = torch.zeros(len(inputs), w_h.shape[1], dtype=inputs.dtype)
    states = []
    for t in range(inputs.shape[1]):
        reset_in, update_in, new_in = (inputs[:, t] @ w_in.T + b_in).chunk(3, 1)
        reset_h, update_h, new_h = (h @ w_h.T + b_h).chunk(3, 1)
        reset = (reset_in + reset_h).sigmoid()
        update = (update_in + update_h).sigmoid()
        h = (1 - update) * (new_in + reset * new_h).tanh() + update * h
        states.append(h)
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gated_recurrence(bidirectional: bool) -> None:
    plain = GRUController(5, width=6, bidirectional=bidirectional).double()
    attentive = GRUAttentionController(5, width=6, bidirectional=bidirectional).double()
    attentive.load_state_dict(plain.state_dict(), strict=False)
    x = rows(2, 7, 5).double()

    inputs = plain.project(x)
    expected = unrolled(plain.recurrence, inputs)
    if bidirectional:
        backward = unrolled(plain.recurrence, inputs.flip(1), "_reverse").flip(1)
        expected = torch.cat([expected, backward], dim=2)
    states, pooled = plain(x)
    assert torch.allclose(states, expected)
    assert torch.allclose(pooled, expected.mean(1))

    # Luong et al. (2015)
    score = torch.einsum("bih,gh,bjg->bij", expected, attentive.score.weight, expected)
    summary = torch.softmax(score / 6**0.5, dim=2) @ expected
    attended = torch.tanh(attentive.combine(torch.cat([expected, summary], dim=2)))
    assert torch.allclose(attentive(x)[0], attended)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_reads_batches_of_any_size(controller: type[Controller]) -> None:
    network = controller(5, width=8)
    for n in (1, 7):
        states, pooled = network(rows(2, n, 5))
        assert states.shape == (2, n, 8)
        assert pooled.shape == (2, 8)


def test_widths_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="width 6 is not a multiple of 2 × 2 heads"):
        TransformerController(5, width=6, n_heads=2)
    with pytest.raises(ValueError, match="two directions need an even one"):
        GRUController(5, width=7, bidirectional=True)
