"""Checks that need a GPU; each module is a command."""
