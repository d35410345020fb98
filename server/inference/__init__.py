"""Models in ONNX Runtime: sessions as a one-core process wants them, and golden replays."""
