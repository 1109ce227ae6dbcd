"""The fuse and its generators."""
