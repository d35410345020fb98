"""The candidate service: retrieves a few hundred relevant videos of all."""
