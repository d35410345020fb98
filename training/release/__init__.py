"""Writes the folder of a release: models, tables, index, goldens and manifest."""
