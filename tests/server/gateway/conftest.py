from tests.builders.chain import (
    candidate_target,
    chain,
    features,
    ranking_target,
    release,
    whole,
)

__all__ = ["candidate_target", "chain", "features", "ranking_target", "release", "whole"]
