"""HistoGAN: networks, training, sampling, and how good the samples are."""

from synthselect_env.synthesis.histogan import CollapseError, HistoGAN, HistoGANConfig
from synthselect_env.synthesis.quality import frechet_distance, nearest_distances, share_closer

__all__ = [
    "CollapseError",
    "HistoGAN",
    "HistoGANConfig",
    "frechet_distance",
    "nearest_distances",
    "share_closer",
]
