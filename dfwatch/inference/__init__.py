"""Devices, precision and batches below the detector."""
