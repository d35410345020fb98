"""The gateway's stages, one a file, and how each may fail."""
