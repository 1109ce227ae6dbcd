"""Queries to the target: budget, requests, journal, cache, checks."""
