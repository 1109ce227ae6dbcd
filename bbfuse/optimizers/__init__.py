"""Optimizers: how the responses to queries move the fuse, one file a method."""
