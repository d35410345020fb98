"""Speed of a stack, over the minimum that its models take and beside its peers.

Measurements raise VireoError if nothing was trained, something doesn't start or an answer is wrong.
"""
