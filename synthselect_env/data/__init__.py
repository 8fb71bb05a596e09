"""Datasets, image readers, image statistics, planted flaws, and the cervical phantom."""

from synthselect_env.data.dataset import Dataset, Split
from synthselect_env.data.folders import FoundImages, find_images, read_class_folders
from synthselect_env.data.image_stats import compute_image_stats
from synthselect_env.data.images import (
    EncodedImages,
    LazyImages,
    RenderedImages,
    decode,
    image_grid,
)
from synthselect_env.data.near_copies import Leak, NearCopy, find_leaks, find_near_copies
from synthselect_env.data.pcam import read_pcam
from synthselect_env.data.phantom import cervical_phantom, phantom_candidates
from synthselect_env.data.preparing import encode_images, split_real
from synthselect_env.data.splitting import apportion, assign_folds, draw_per_class, split_by_group

# Names of 0.1.
LabelledImages = Dataset.of_images
appearance = compute_image_stats

__all__ = [
    "Dataset",
    "EncodedImages",
    "FoundImages",
    "LazyImages",
    "Leak",
    "NearCopy",
    "RenderedImages",
    "Split",
    "apportion",
    "assign_folds",
    "cervical_phantom",
    "compute_image_stats",
    "decode",
    "draw_per_class",
    "encode_images",
    "find_images",
    "find_leaks",
    "find_near_copies",
    "image_grid",
    "phantom_candidates",
    "read_class_folders",
    "read_pcam",
    "split_by_group",
    "split_real",
]
