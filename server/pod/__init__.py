"""What all pods share: their release, their worker, and which calls they shed."""
