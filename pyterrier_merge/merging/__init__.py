"""Blending the weights of two checkpoints into one live model."""
