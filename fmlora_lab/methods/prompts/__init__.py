"""Rivals that adapt by prompts and prefixes."""
