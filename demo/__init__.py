"""The one-command demo. Nothing in here is part of the node pack."""
