"""Tests of bbfuse.fit and its result."""
