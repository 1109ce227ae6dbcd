"""Generators: the networks that a fuse adds to the input, made for the shape of an input."""
