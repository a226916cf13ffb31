"""How the demo gets a ComfyUI and talks to it. Standard library only."""
