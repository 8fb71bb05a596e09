"""Networks on images: classifier, augmentation, devices, checkpoints."""
