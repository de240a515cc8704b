"""An explorer's picture in a page: two SVGs that lie on each other, and what only a page knows.

The page says how much room there is, and where the picture is pressed. It gives sliders and buttons
names for those who do not see them, and keeps an explorer's state in the address where that is
asked for. All of it is in `picture.js`.
"""

from pathlib import Path

import anywidget
from traitlets import Bool, Dict, List, Unicode


class Picture(anywidget.AnyWidget):
    """What is shown; traits named here are shared with the page."""

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    back = Unicode().tag(sync=True)
    front = Unicode().tag(sync=True)
    alt = Unicode().tag(sync=True)
    """The picture in words."""
    room = List().tag(sync=True)
    """Height by width of the room for it, and a count; nothing where no page has said so yet."""
    pressed = List().tag(sync=True)
    """Where it was pressed last: shares of width and height from the upper left, and a count."""
    pressable = Bool(False).tag(sync=True)
    spots = List().tag(sync=True)
    """What is said of places when they are pointed at: dictionaries of `x`, `y`, `text`, `image`,
    of which the last names one of `images` or none."""
    images = Dict().tag(sync=True)
    """Addresses by name."""
    helped = Bool(False).tag(sync=True)
    address = Dict().tag(sync=True)
    """What the page's address is to say, by name; nothing where it is none of the explorer's."""
