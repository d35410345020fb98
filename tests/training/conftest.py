"""Settings of every training test."""

from __future__ import annotations

import torch

# Models this small gain nothing from threads, which on a busy machine wait for each other.
torch.set_num_threads(1)
