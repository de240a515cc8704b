"""Shapes that signatures state are checked in all tests: a wrong one is refused where it enters."""

import jaxtyping
import pytest
import torch

from fmlora_lab.backbone.low_rank import (
    Factors,
    adapted_linear,
    low_rank_linear,
    side_branch,
    times,
)
from fmlora_lab.config import Heads
from fmlora_lab.heads.cosine import Cosine
from fmlora_lab.heads.drift import fit
from fmlora_lab.heads.lda import LDA
from fmlora_lab.heads.means import ClassMeans
from fmlora_lab.heads.ridge import mean_of_h
from fmlora_lab.methods.fm_lora.estimates import means_error
from fmlora_lab.methods.fm_lora.factorized import FactorizedLoRA, thin_svd
from fmlora_lab.methods.fm_lora.meta_prompt import new_prompt
from fmlora_lab.methods.fm_lora.rank_selector import DRSSettings, RankSelector, gumbel_softmax
from fmlora_lab.methods.low_rank.dual_gpm import extend, free_vectors
from fmlora_lab.methods.prompts.class_statistics import describe, sample
from fmlora_lab.methods.prompts.coda_prompt import attention, gram_schmidt
from fmlora_lab.methods.prompts.prefixes import cosines, halves

pytestmark = pytest.mark.unit


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


LABELS = torch.arange(4)
WRONG = {
    "another width of x": lambda: low_rank_linear(
        zeros(5, 6), zeros(7, 8), None, zeros(7, 2), None, zeros(8, 2)
    ),
    "U and V of other ranks": lambda: low_rank_linear(
        zeros(5, 8), zeros(7, 8), None, zeros(7, 2), None, zeros(8, 3)
    ),
    "a bias for other outputs": lambda: adapted_linear(
        zeros(5, 8), zeros(7, 8), zeros(6), Factors(zeros(7, 2), None, zeros(8, 2))
    ),
    "a core of another rank": lambda: times(zeros(7, 2), zeros(3, 3)),
    "columns of other images": lambda: side_branch(
        zeros(5, 4, 8), zeros(7, 2), None, zeros(8, 2), zeros(3, 2)
    ),
    "features of another width": lambda: ClassMeans(8, 4, Heads())(zeros(4, 8, 1)),
    "more labels than features": lambda: ClassMeans(8, 4, Heads()).add(zeros(3, 8), LABELS),
    "images of other labels": lambda: LDA(8, 4, Heads()).settle(zeros(3, 8), LABELS),
    "moments in a vector": lambda: mean_of_h(zeros(2, 8), zeros(8), zeros(8, 5)),
    "drift of other images": lambda: fit(zeros(3, 8), zeros(4, 8)),
    "rows of another width": lambda: Cosine(8, 4).logits(zeros(3, 8), zeros(4, 7), zeros(4)),
    "labels that are no integers": lambda: means_error(zeros(4, 8), LABELS.float()),
    "factors of other ranks": lambda: thin_svd(zeros(7, 2), zeros(8, 3)),
    "ranks in a matrix": lambda: FactorizedLoRA.keep_columns(None, LABELS[None]),
    "a loss for each image": lambda: RankSelector(DRSSettings(), 16, 1).observe(zeros(4)),
    "a number for logits": lambda: gumbel_softmax(torch.tensor(0.0), 1.0, generator()),
    "a width that is a float": lambda: new_prompt(2, 8.0, generator()),
    "moments that are not square": lambda: free_vectors(zeros(8, 7), zeros(8, 2), False),
    "a memory of another width": lambda: extend(zeros(7, 2), False, zeros(8, 8), 0.9),
    "one feature for a class": lambda: describe(zeros(8), 1, generator()),
    "statistics of a class alone": lambda: sample(zeros(8), 3, generator()),
    "keys of another width": lambda: attention(zeros(3, 8), zeros(4, 8), zeros(4, 7)),
    "a draw of another width": lambda: gram_schmidt(zeros(2, 8), zeros(2, 7)),
    "queries of another width": lambda: cosines(zeros(3, 8), zeros(4, 7)),
    "an odd number of tokens": lambda: halves(zeros(3, 8)),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_shape_is_refused(what):
    with pytest.raises(jaxtyping.TypeCheckError, match="whilst checking the"):
        WRONG[what]()
