"""Releases: the manifest, the S3 store, the local cache and the loader that swaps them in."""
