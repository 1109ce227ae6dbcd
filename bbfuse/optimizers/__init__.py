"""Optimizers: how the fuse is trained from responses to queries, one file for each optimizer."""
