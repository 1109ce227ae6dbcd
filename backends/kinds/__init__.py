"""Kinds of backends by the name that `backend` takes: how each is opened, and what access it grants."""
