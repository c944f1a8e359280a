"""``npgan puzzle``: the gallery's bugs, each to be mended by the reader and marked by the gradient checker."""
