from __future__ import annotations

import pytest
import torch

from synthselect_env.training import muon


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 6)])
def test_orthogonalised_keeps_directions(shape: tuple[int, int]) -> None:
    """Singular vectors stay, singular values come near 1: the iteration is rough on purpose."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diag(u.T @ muon.orthogonalised(matrix) @ v.T)
    assert ((0.5 < values) & (values < 1.4)).all()
