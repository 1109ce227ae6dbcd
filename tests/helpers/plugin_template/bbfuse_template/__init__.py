"""A package of components for bbfuse, one of every kind, found by the entry points in its pyproject.toml."""
