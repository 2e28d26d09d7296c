"""Training: data, augmentation, losses, criteria, recipes and the loop. Inference never imports it."""
