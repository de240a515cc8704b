"""What turns features into classes: one page a head. Importing this package registers them all.

Every run trains one head and is evaluated by all that keep statistics beside it, from the same
features. Shape letters: B images, d feature width, K classes of the stream, k classes of the task.
"""

from fmlora_lab.heads import cosine, linear, means
from fmlora_lab.heads.head import BANKS, TRAINED, Bank, Head, TrainedHead, trained_head

__all__ = ["BANKS", "TRAINED", "Bank", "Head", "TrainedHead", "cosine", "linear", "means",
           "trained_head"]  # fmt: skip
