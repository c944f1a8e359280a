"""The one exception that means "the user's input is at fault", and what any other says in one line."""


class InputError(ValueError):
    """A bad argument, configuration or input file.

    The message is one line that names the flag or the file and says what to do. The command line prints it without a
    traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """What the system or a library says is wrong, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(text.strip().splitlines()), "") or type(error).__name__
