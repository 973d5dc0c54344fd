"""The embedded default: topics and state in SQLite, objects in a directory, images from a folder."""
