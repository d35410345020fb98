"""Bounds of a viewer's row of activity features, which `training.features.activity` writes."""

HISTORY_LIMIT = 200
"""Number of last watched videos, with times, that a viewer's row keeps."""
WATCHED_LIMIT = 5000
"""Number of watched videos that are remembered, for EASE and to filter them out."""
