"""Speed of a stack, over the minimum that its models take and beside its peers."""
