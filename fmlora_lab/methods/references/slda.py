"""SLDA: streaming linear discriminant analysis on frozen features; nothing is trained.

    score_k = w_k · f + b_k        w_k = Σ⁻¹ μ_k        b_k = −½ μ_kᵀ Σ⁻¹ μ_k

The head is `heads/lda.py`, where the equations stand; this page says that nothing else is done.
Source: Hayes and Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear Discriminant
Analysis", CVPR workshops, arXiv 1909.01520. There images come one by one, the covariance is a
running one and 1e-4 of the identity is mixed into it; here S is exact, features have length 1, and
the shrinkage is chosen by leave-one-out unless `heads.shrinkage` gives it, as the paper's does.
"""

from collections.abc import Iterator
from typing import Literal

from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.method import Method, Stage, register


class SLDASettings(MethodSettings):
    name: Literal["slda"] = "slda"


@register(
    SLDASettings,
    title="SLDA",
    family="references",
    what="frozen backbone, Gaussian classes with one covariance",
    source="Hayes and Kanan 2020, CVPR workshops, arXiv 1909.01520",
    since="2019-09",
    paper={"heads.shrinkage": 1e-4},
)
class SLDA(Method):
    ranked_by = "lda"

    def adapts(self, task: int) -> bool:
        return False

    def stages(self, epochs: int) -> Iterator[Stage]:
        yield from ()
