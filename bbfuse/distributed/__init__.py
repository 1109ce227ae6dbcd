"""Probes scored by Ray workers."""
