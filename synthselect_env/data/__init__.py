"""Images in: readers for class folders and for PCam's own files, pictures with planted flaws, and the cervical phantom."""

from synthselect_env.data.folders import read_class_folders
from synthselect_env.data.image_stats import appearance
from synthselect_env.data.images import EncodedImages, LabelledImages, LazyImages, RenderedImages, decode
from synthselect_env.data.pcam import read_pcam
from synthselect_env.data.phantom import cervical_phantom, phantom_candidates
from synthselect_env.data.splitting import apportion, draw_per_class, split_by_group

__all__ = [
    "EncodedImages",
    "LabelledImages",
    "LazyImages",
    "RenderedImages",
    "appearance",
    "apportion",
    "cervical_phantom",
    "decode",
    "draw_per_class",
    "phantom_candidates",
    "read_class_folders",
    "read_pcam",
    "split_by_group",
]
