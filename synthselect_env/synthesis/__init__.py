"""HistoGAN: networks, training, sampling."""

from synthselect_env.synthesis.histogan import HistoGAN, HistoGANConfig, tile

__all__ = ["HistoGAN", "HistoGANConfig", "tile"]
