"""Model bundles: what a model is, how its weights are read, and how it is built."""
