"""Models that can be run: the decoder as a torch module and as an ONNX graph."""
