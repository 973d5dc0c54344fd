"""The outer loop: parameters from which a detector learns a new line in few steps, contaminated or not."""
