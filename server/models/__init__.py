"""Models of a release in ONNX Runtime: their signatures, and outputs that they must reproduce."""
