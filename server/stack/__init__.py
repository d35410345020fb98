"""The whole system on one machine: which processes there are, and who looks after them."""
