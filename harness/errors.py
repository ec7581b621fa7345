"""Errors that are the user's to mend: the command line prints their text alone and exits with 2."""


class UserError(Exception):
    """What is wrong, and which flag or file to change."""


class Interrupted(UserError):
    """Ctrl-C: what is safe, and how to go on."""
