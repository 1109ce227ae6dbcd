"""Generators: the networks that a fuse adds to the image, made for an image shape."""
