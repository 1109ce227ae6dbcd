"""A trained fuse and head in use: as a module, as ONNX, as a proxy."""
