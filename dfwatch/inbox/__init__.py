"""What the watcher knows of the inbox: scans, completeness, leases, events, file systems."""
