"""Offline: viewing data to features, models, evaluation and releases."""
