"""Stage 2: from a selection to lists of work."""
