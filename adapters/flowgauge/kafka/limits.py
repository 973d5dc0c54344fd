"""What brokers and clients agree on."""

LARGEST_MESSAGE = 10 * 1024 * 1024
"""Bytes; what our topics are created with, and twice what JSON and inline images need."""

LARGEST_LETTER = LARGEST_MESSAGE + 64 * 1024
"""Bytes; a dead letter is the largest message, where it lay, and why it could not be processed."""
