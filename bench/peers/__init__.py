"""Ray Serve around the same pipelines, for an environment of its own.

Nothing here imports stubs, Feast, faiss or torch, which that environment doesn't have.
"""

RELEASE = "VIREO_BENCH_RELEASE"
"""Environment variable with the release's folder."""
PORT = "VIREO_BENCH_PORT"
"""Environment variable with the port; the next one is free too."""
VIEWERS = "VIREO_BENCH_VIEWERS"
"""Environment variable with the file of viewers' features, pickled, by id."""
