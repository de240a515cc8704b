"""Text as tokens, a word each: what the lab's own text tower reads."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

PAD, START, UNKNOWN = 0, 1, 2


class Words:
    """A tokenizer of whole words. The end has the highest number, as in CLIP, by which a text tower
    finds it; a word that is in no vocabulary is `UNKNOWN`."""

    def __init__(self, vocabulary: Sequence[str], length: int):
        """`length` is L, of the longest text with its start and end."""
        self.vocabulary, self.length = tuple(vocabulary), length
        self.numbers = {word: n for n, word in enumerate(vocabulary, UNKNOWN + 1)}
        self.end = UNKNOWN + 1 + len(self.numbers)

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "n L"]:
        """Texts as tokens; what is too long loses its last words."""
        tokens = torch.zeros(len(texts), self.length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            words = [self.numbers.get(word, UNKNOWN) for word in text.lower().split()]
            own = [START, *words[: self.length - 2], self.end]
            row[: len(own)] = torch.tensor(own)
        return tokens
