"""MoC Windows in ComfyUI: its own context windows, laid along the shots or drawn anew at every step."""

from .patch import apply_windows

__all__ = ["apply_windows"]
