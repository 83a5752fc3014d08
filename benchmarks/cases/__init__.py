"""What is measured, one module for each question: ``run(context)`` gives a ``Result``."""
