"""What goes wrong in a run for reasons its user can do something about."""


class RunError(Exception):
    """A run cannot start or go on; the message is one line for the user, and what was done before is on disk."""
