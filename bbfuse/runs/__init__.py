"""The run folder and its report."""
