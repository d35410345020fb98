"""The whole system on one machine: which processes there are, and their supervision."""
