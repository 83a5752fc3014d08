"""Reading, checking, comparing and printing ``config.yaml``."""
