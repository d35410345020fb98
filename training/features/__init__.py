"""The Feast repository: what is known of viewers and videos at any moment."""
