"""The one exception that means "the user's input is at fault", and how text becomes a line."""


class InputError(ValueError):
    """A bad argument, configuration or input file.

    The message is one line that names the flag or the file and says what to do. The command line prints it without a
    traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """What the system or a library says is wrong, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(next(iter(text.strip().splitlines()), "") or type(error).__name__)


def one_line(text: str) -> str:
    """The text without line ends, and with "?" for escape codes and all else that no printer shows."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)
