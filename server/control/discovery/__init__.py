"""Where pods are: each source gives the endpoints of every service and pool, and each change."""
