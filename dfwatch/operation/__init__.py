"""The service as its operator and systemd see it."""
