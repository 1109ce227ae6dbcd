"""Use of a trained fuse and head: as a module, as ONNX, as a proxy."""
