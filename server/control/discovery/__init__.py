"""Discovery of pods: each source yields the endpoints of all pools, and every change."""
