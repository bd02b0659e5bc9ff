"""Classifiers that show where they look: data, models, losses, training, metrics (needs torch)."""
