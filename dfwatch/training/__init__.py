"""Training tools: prepare data, train, calibrate, evaluate. Never imported by the service."""
