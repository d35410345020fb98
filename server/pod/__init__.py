"""What all pods share: their release, the order of their runs, and which calls they shed."""
