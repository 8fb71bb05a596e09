"""Networks on images: the classifier, its augmentation, devices and checkpoints."""
