"""What is known of videos: those of a release, and what the log says since."""
