"""The multi-task ranking model: its training set, its training and its export."""
