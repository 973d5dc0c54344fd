"""What brokers and clients agree on."""

LARGEST_MESSAGE = 10 * 1024 * 1024
"""Bytes; what our topics are created with, and twice what JSON and inline images need."""
