"""Mixture of Contexts: every query token, in every head, attends to the few chunks of a long video that matter to it.

Host-free: imports torch and numpy, never ComfyUI (only `moc.host` does).
"""
