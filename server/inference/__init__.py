"""Models in ONNX Runtime: sessions for one core, golden replays, the Open Inference Protocol."""
