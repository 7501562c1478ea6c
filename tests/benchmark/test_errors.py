"""What is behind an error."""

import io

import pytest
import torch

from benchmark.errors import was_interrupted


class _StoppedFile(io.BytesIO):
    """Interrupted in the midst of being written."""

    def write(self, data):
        if self.tell() > 1000:
            raise KeyboardInterrupt
        return super().write(data)


def test_an_interrupt_that_torch_turns_into_an_error_of_its_own_is_one():
    with pytest.raises((RuntimeError, KeyboardInterrupt)) as caught:
        torch.save({"weights": torch.zeros(10_000)}, _StoppedFile())
    assert was_interrupted(caught.value)


def test_other_errors_are_none():
    assert not was_interrupted(ValueError("x"))
    assert not was_interrupted(None)
