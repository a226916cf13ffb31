"""A custom node for tests: a ComfyUI with none of the packages that the pack can do without."""

NODE_CLASS_MAPPINGS: dict = {}
