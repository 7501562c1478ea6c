"""The exceptions that every part knows."""


class UserError(Exception):
    """Something the user can put right: says what was wrong, where, and what to do. Printed without a traceback."""


class GivenUp(Exception):
    """Whoever watches a training has seen enough of it: no error, and no result."""
