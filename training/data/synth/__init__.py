"""A made-up world of viewers and videos, as large as is asked for and the same for a seed."""
