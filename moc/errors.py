"""The one exception a person is meant to read."""


class MoCError(ValueError):
    """Something in the graph must change; the message says what, in the words of the node's inputs."""

    __module__ = "moc"  # ComfyUI shows the class with its module before the sentence; a file path helps nobody
