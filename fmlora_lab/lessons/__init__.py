"""What the walkthrough (notebooks 10 to 17) is made of.

`show` prints lines of the lab's own source, `retrain` trains again when a control is moved,
`check` looks at the answer to an exercise.
"""

from fmlora_lab.lessons.answers import check
from fmlora_lab.lessons.live import retrain
from fmlora_lab.lessons.source import show
from fmlora_lab.lessons.watched import small

__all__ = ["check", "retrain", "show", "small"]
