"""Where the video cuts: ints and words, no tensors but in `detect`."""
