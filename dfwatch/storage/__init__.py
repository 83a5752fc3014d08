"""Folders, names and file operations that survive power loss."""
