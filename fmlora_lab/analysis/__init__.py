"""Numbers from stored runs. Nothing in this package imports torch."""
