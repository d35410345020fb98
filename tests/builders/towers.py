"""Towers that haven't learned anything, none of whose terms hides behind a zero."""

from __future__ import annotations

import torch

from vireo.training.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower


def random_towers(data: RetrievalData, config: RetrievalConfig) -> TwoTower:
    """Towers of random weights; what stands for nothing known is zero, as it stays in training."""
    torch.manual_seed(0)
    model = TwoTower(data, config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.video_tower.token_embedding.weight[0] = 0
        model.viewer_tower.attribute_embedding.weight[0] = 0
        if model.viewer_tower.context is not None:
            for weight in model.viewer_tower.context.parameters():
                weight[0] = 0
    return model.eval()
