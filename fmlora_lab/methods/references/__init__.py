"""What every method is measured by."""
