"""`make losses` sees the last bit."""

import pytest
from losses import compared

pytestmark = pytest.mark.unit

HALF = (0.5).hex()
NEXT = (0.5 + 2**-53).hex()


def test_a_last_bit_is_seen_and_named():
    lines, equal = compared({"lora": [HALF, HALF]}, {"lora": [HALF, NEXT]})
    assert not equal
    assert lines == ["lora           epoch 2 lost 0.5, loses 0.5000000000000001"]


def test_equal_losses_are_equal_and_newcomers_are_left_out():
    base, head = {"lora": [HALF], "left": [HALF]}, {"lora": [HALF], "new": [NEXT]}
    assert compared(base, head) == (["lora           1 epochs equal to the last bit"], True)


def test_an_epoch_more_is_a_difference():
    lines, equal = compared({"lora": [HALF]}, {"lora": [HALF, HALF]})
    assert (lines, equal) == (["lora           1 epochs before, 2 now"], False)
