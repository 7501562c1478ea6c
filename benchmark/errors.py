"""The one exception that is written for people."""


class UserError(Exception):
    """Something the user can put right: says what was wrong, where, and what to do. Printed without a traceback."""
