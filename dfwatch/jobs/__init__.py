"""What happens to a claimed file on its way through the pipeline."""
