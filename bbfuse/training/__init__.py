"""One training run: plan, steps, objective, evaluation."""
