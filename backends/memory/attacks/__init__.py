"""Bit errors chosen to do harm."""
