"""Baselines that a trained chain must beat, a file each; `registry` lists them."""
