"""All services of a slate in one process."""
