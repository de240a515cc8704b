"""Rivals that adapt weights by low-rank updates."""
