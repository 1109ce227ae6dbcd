"""Targets behind HTTP: transport, discovery, codecs, and the backend made of them."""
