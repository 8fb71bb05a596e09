"""Images in: readers for class folders and for PCam's own files."""

from synthselect_env.data.folders import read_class_folders
from synthselect_env.data.images import EncodedImages, LabelledImages, decode
from synthselect_env.data.pcam import read_pcam
from synthselect_env.data.subsets import draw_per_class

__all__ = ["EncodedImages", "LabelledImages", "decode", "draw_per_class", "read_class_folders", "read_pcam"]
