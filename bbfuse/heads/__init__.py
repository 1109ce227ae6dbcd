"""Heads: small corrections of the logits."""
