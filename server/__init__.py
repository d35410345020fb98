"""Online: the gateway, the candidate and ranking pods, and what runs them."""

import os

# ONNX Runtime reports to Microsoft from 1.29 on, and reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
