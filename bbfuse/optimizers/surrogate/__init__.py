"""Optimizers that train through a surrogate of the target."""
