"""Who reads whom: pure functions on tensors."""
