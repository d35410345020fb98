"""The gateway: reads the viewer's features, has candidates found and ranked, and answers."""
