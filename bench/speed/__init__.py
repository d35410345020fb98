"""How fast a stack answers, over the least that its models take and beside its peers."""
