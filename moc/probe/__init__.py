"""How good a routing is, and what would be better."""
