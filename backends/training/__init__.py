"""Fitting of classifiers: recipes, the cache of fitted weights, and hardening against bit errors."""
