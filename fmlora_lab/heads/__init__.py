"""What turns features into classes: one page a head. Importing this package registers them all.

Every run trains one head and is evaluated by all that keep statistics beside it, from the same
features. Shape letters: n or B images, d feature width, K classes of the stream, k classes of the
task, M random features, G Gaussians (K, or one a class and domain).
"""

from fmlora_lab.heads import cosine, lda, linear, means, ridge
from fmlora_lab.heads.banks import Banks
from fmlora_lab.heads.drift import Drift
from fmlora_lab.heads.head import BANKS, TRAINED, Bank, Head, TrainedHead, trained_head
from fmlora_lab.heads.text import Text

__all__ = ["BANKS", "TRAINED", "Bank", "Banks", "Drift", "Head", "Text", "TrainedHead", "cosine",
           "lda", "linear", "means", "ridge", "trained_head"]  # fmt: skip
