"""What models and sources read of viewers and videos, the same in training and in serving."""
