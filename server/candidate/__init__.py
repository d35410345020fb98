"""The candidate service: finds a few hundred relevant videos out of all."""
