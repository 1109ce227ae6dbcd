"""Mutation testing: change one operator or number of the code, and see whether a test notices (`python -m tests.mutation`)."""
