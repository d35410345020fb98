"""The Feast repository: point-in-time features of viewers and videos."""
