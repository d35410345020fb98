"""Ray Serve around the same pipelines, for an environment of its own.

Nothing here imports stubs, Feast, faiss or torch, which that environment doesn't have.
"""
