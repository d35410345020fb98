"""The gateway: reads the viewer's features, retrieves and ranks candidates, returns the slate."""
