"""Data sets: images and labels, split into owned and held-out parts."""
