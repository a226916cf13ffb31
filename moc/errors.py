"""The one exception a person is meant to read."""


class MoCError(ValueError):
    """Something in the graph must change; the message says what, in the words of the node's inputs."""
