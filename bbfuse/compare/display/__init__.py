"""What comparisons show: tables, plots, shares of recovery."""
