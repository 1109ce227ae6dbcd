"""Networks in files of other programs: ONNX, TorchScript and torch.export."""
