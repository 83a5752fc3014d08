"""dfwatch: a video dropped into a folder gets a deepfake verdict."""

__version__ = "0.1.0"
