"""HistoGAN: networks, training, sampling, and the quality of its images."""

from synthselect_env.data import image_grid
from synthselect_env.synthesis.histogan import HistoGAN, HistoGANConfig
from synthselect_env.synthesis.monitoring import CollapseError
from synthselect_env.synthesis.quality import frechet_distance, nearest_distances, share_closer

tile = image_grid
"""Name in 0.1."""

__all__ = [
    "CollapseError",
    "HistoGAN",
    "HistoGANConfig",
    "frechet_distance",
    "nearest_distances",
    "share_closer",
]
