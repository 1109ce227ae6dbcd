"""The command line: flags, progress, tables."""
