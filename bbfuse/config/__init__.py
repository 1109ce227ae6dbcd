"""The configuration of a run: settings, their ranges, the rules between them."""
