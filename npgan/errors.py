"""The one exception that means "the user's input is at fault"."""


class InputError(ValueError):
    """A bad argument, configuration or input file.

    The message is one line that names the flag or the file and says what to do. The command line prints it without a
    traceback and exits with status 2.
    """
