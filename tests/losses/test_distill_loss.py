"""The KL over a teacher's top tokens and the rest: by hand, against the whole vocabulary, and its edges."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.losses import distill_losses, top_classes


def test_by_hand() -> None:
    # Teacher 0.5, 0.3, 0.1, 0.1; kept: the first two, rest 0.2. Student 0.25 everywhere: classes 0.25, 0.25, 0.5.
    teacher = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    kept = top_classes(teacher, 2)
    assert kept.ids.tolist() == [[0, 1]]
    torch.testing.assert_close(kept.logps.exp(), torch.tensor([[0.5, 0.3, 0.2]]))
    # 0.5 ln(0.5/0.25) + 0.3 ln(0.3/0.25) + 0.2 ln(0.2/0.5) = 0.3466 + 0.0547 - 0.1833
    loss = distill_losses(torch.zeros(1, 4), kept.ids, kept.logps)
    assert loss.item() == pytest.approx(0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.4), abs=1e-6)


def test_it_is_zero_where_the_two_agree_and_nowhere_else_negative() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(20, 40) * 3, torch.randn(20, 40) * 3
    kept = top_classes(teacher, 5)
    torch.testing.assert_close(distill_losses(teacher + 7.0, kept.ids, kept.logps), torch.zeros(20), atol=1e-5, rtol=0)
    losses = distill_losses(student, kept.ids, kept.logps)
    whole = (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1)
    assert (losses > 0).all()
    assert (losses <= whole + 1e-5).all()  # classes thrown together hide differences
    most = top_classes(teacher, 39)  # all but one token kept: nothing is hidden
    torch.testing.assert_close(distill_losses(student, most.ids, most.logps), whole, atol=1e-5, rtol=1e-5)


def test_the_gradient_moves_the_student_to_the_teachers_classes() -> None:
    torch.manual_seed(1)
    kept = top_classes(torch.randn(3, 30) * 2, 4)
    logits = torch.zeros(3, 30, requires_grad=True)
    distill_losses(logits, kept.ids, kept.logps).sum().backward()
    assert logits.grad is not None
    # d KL / d logit of a kept token is student's minus teacher's probability of it
    expected = 1 / 30 - kept.logps[:, :-1].exp()
    torch.testing.assert_close(logits.grad.gather(-1, kept.ids), expected, atol=1e-6, rtol=1e-5)


def test_a_teacher_that_is_certain_gives_no_nan() -> None:
    teacher = torch.full((1, 6), float("-inf"))
    teacher[0, 2] = 0.0
    kept = top_classes(teacher, 2)
    logits = torch.zeros(1, 6, requires_grad=True)
    loss = distill_losses(logits, kept.ids, kept.logps)
    assert loss.item() == pytest.approx(math.log(6), abs=1e-6)
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
