"""The exceptions that every part knows, and what is behind others."""


class UserError(Exception):
    """Something the user can put right: says what was wrong, where, and what to do. Printed without a traceback."""


class GivenUp(Exception):
    """Whoever watches a training has seen enough of it: no error, and no result."""


def was_interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is behind an error: code that Python calls, and that calls Python (as torch.save does to
    write), turns it into an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
