"""What `vireo bench live` measures: events and the live catalogue, from a call to its effect."""
