"""A regular package: ComfyUI has a `tests` of its own, beside which ours would not be found."""
