"""Scripts as domains: characters that a model with a text tower has never seen, by their names.

A character's text is its Unicode name. Each domain is a script (or a kind of sign) of 20
characters in a style of its own, in the stream `glyph-scripts`. What these characters are named
with, `glyphs-clip` was trained on: every word of a name stands in the names of at least three
characters of `training_characters`. The characters themselves it was not. Of `unseen_script` it
saw none either, and of `unseen_words` not even the words.

The rule that chose a domain's characters: those of its names, in a shuffled order, that stand in a
test typeface, that glyphs-vit, as which the image tower starts, has not seen, whose words are left
in three training characters, and that are no look-alikes, in training or in test typefaces, of one
that was taken before in any domain.
"""

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache

from fmlora_lab.benchmarks.glyphs.styles import DOMAINS, Style
from fmlora_lab.benchmarks.glyphs.typefaces import TEST_FACES, TRAIN_FACES, characters_of


@dataclass(frozen=True)
class Script:
    """A domain: 20 characters, how they are drawn, and what is said of one of them."""

    characters: str
    style: Style
    templates: tuple[str, ...]


LETTER, SIGN = ("the letter {}", "{}"), ("the sign {}", "{}")

SCRIPTS = {
    "latin": Script("ÃáąćĒŀŇŜŞŤŮŻǼɨɭɰɽʓẀẁ", DOMAINS["real"], LETTER),
    "greek": Script("ΆΉΐΒΔΟΠΦάιοπςσψύϑϘϱ϶", DOMAINS["painting"], LETTER),
    "cyrillic": Script("ЅЕЙКТУЦЧЫЭЯжклмчшьюѕ", DOMAINS["sketch"], LETTER),
    "arrows": Script("↺⇌⇢⇼⤃⤉⤎⤣⤤⤪⤶⤽⥂⥌⥐⥙⥚⥛⥧⥮", DOMAINS["infograph"], SIGN),
    "relations": Script("∼≈≊≜≱≲≴≻⊈⋖⋗⋤⋻⪆⪌⪗⪛⪯⪰⪲", DOMAINS["quickdraw"], SIGN),
    "letterlike": Script("²ℋℑℒℓℚℭℰℴℽℾ⅂ⅅⅉ⅝④⑦✪➅➋", DOMAINS["clipart"], SIGN),
}
"""The domains by name."""

ORDERS = {
    1: ("latin", "greek", "cyrillic", "arrows", "relations", "letterlike"),
    2: ("relations", "cyrillic", "letterlike", "latin", "arrows", "greek"),
}
"""`benchmark.order`: the two orders in which the domains come."""

TRAINING_TEMPLATES = (
    *("{}", "the letter {}", "the sign {}", "the character {}"),
    *("a drawing of {}", "a picture of {}"),
)
"""What `glyphs-clip` was told of a character, one at random each time."""

UNSEEN_SCRIPT = "MATHEMATICAL DOUBLE-STRUCK"
"""How the names begin of a script of which no character is in the training, but all words that tell
its characters apart."""
UNSEEN_WORDS = ("GEORGIAN", "ARMENIAN")
"""How the names begin of scripts whose words are in no training name."""

ENOUGH = 4
"""In so many training typefaces a character must stand, and in so many names each of its words."""


def text_of(character: str) -> str:
    """A character's text: its Unicode name, in small letters."""
    return unicodedata.name(character).lower()


@cache
def named_characters() -> tuple[str, ...]:
    """Letters, numbers and symbols with a name that stand in enough training typefaces."""
    faces = Counter(character for face in TRAIN_FACES for character in characters_of(face))
    left_out = ("BRAILLE", "TETRAGRAM", "HEXAGRAM", "MODIFIER")
    return tuple(
        character
        for character, count in sorted(faces.items())
        if count >= ENOUGH
        and unicodedata.category(character)
        in ("Lu", "Ll", "Lt", "Lo", "Lm", "Nd", "Nl", "No", "Sm", "So")
        and unicodedata.name(character, "")
        and not unicodedata.name(character).startswith(left_out)
    )


@cache
def training_characters() -> tuple[str, ...]:
    """What `glyphs-clip` was trained on: named characters that are in no domain and in no unseen
    script, each word of whose names several have."""
    held_out = {character for script in SCRIPTS.values() for character in script.characters}
    left = [
        character
        for character in named_characters()
        if not unicodedata.name(character).startswith((UNSEEN_SCRIPT, *UNSEEN_WORDS))
    ]
    while True:  # a name that goes takes its words with it
        counts = Counter(word for c in left for word in set(text_of(c).split()))
        kept = [c for c in left if all(counts[word] >= ENOUGH for word in text_of(c).split())]
        if len(kept) == len(left):
            return tuple(character for character in left if character not in held_out)
        left = kept


def unseen_script() -> list[str]:
    """Characters of the script of seen words that stand in a test typeface."""
    return _standing((UNSEEN_SCRIPT,), set().union(*map(characters_of, TEST_FACES)))


def unseen_words() -> list[str]:
    """Characters of the scripts of unseen words; no test typeface has them."""
    return _standing(UNSEEN_WORDS, set(named_characters()))


def _standing(begin: tuple[str, ...], among: set[str]) -> list[str]:
    return [c for c in named_characters() if unicodedata.name(c).startswith(begin) and c in among]
