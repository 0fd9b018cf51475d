"""Mistakes of the user, told apart from bugs."""


class UserError(Exception):
    """What the user can put right; the tools show its text without a traceback."""
