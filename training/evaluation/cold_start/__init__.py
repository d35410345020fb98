"""Cold start: viewers with few watches, and videos without any."""
