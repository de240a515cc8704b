"""What is on disk. Importing this package does not import torch."""
