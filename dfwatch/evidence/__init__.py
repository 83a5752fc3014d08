"""Pictures and a page for people who would rather look than read. Never part of how a verdict is reached."""
