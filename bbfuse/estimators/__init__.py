"""How answers become a gradient for the fuse: one file a method, opened by `bbfuse.methods.METHODS`."""
