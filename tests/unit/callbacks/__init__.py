"""Tests of bbfuse.callbacks."""
