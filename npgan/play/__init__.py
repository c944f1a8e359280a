"""``npgan play``: a page on the user's own machine in which a GAN learns. Every number comes from npgan's textbook.

The page has a tab for each part, and a part has two halves that share a name:

- ``play/NAME.py``: a class with ``handle(message)`` and ``close()`` (``base.Part``), listed in ``parts.PARTS``. Each page
  has a part of its own, made at the first message for it.
- ``static/NAME.js`` and ``static/NAME.css``: the module exports ``title`` and ``start(panel, send)``, called when the tab is
  first opened. It builds the tab in ``panel`` and returns ``{receive(message), shown(), hidden()}``; the last two may be
  missing. The rules of its style sheet are all under ``#panel-NAME``.

Messages are JSON objects. ``send({...})`` in the browser arrives as ``handle({...})``, and what the part sends as
``receive({...})``; the frame adds the part's name on the way and takes it off again. An ``InputError`` that ``handle``
raises goes to ``receive({"error": text})``. Elements are made with ``dom.js``, which knows text and no HTML.
"""
