"""How much memory the steps from a site's files to a release take at their peaks."""
