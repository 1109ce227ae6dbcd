"""Targets on simulated low-voltage memory, in this process or behind HTTP. Nothing here depends on optimisation."""
