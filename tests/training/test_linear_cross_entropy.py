import pytest
import torch

from cka_tools.training.objectives import ROWS, linear_cross_entropy


@pytest.mark.parametrize("rows", [0, 1, ROWS, ROWS + 7])
@pytest.mark.parametrize("with_bias", [True, False])
def test_value_and_gradients_equal_torch(rows: int, with_bias: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    hidden = torch.randn(rows, 5, generator=draw, requires_grad=True)
    weight = torch.randn(11, 5, generator=draw, requires_grad=True)
    bias = torch.randn(11, generator=draw, requires_grad=True) if with_bias else None
    labels = torch.randint(0, 11, (rows,), generator=draw)
    inputs = [x for x in (hidden, weight, bias) if x is not None]
    # A loss is divided by its targets before the backward pass.
    expected = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(hidden, weight, bias), labels, reduction="sum"
    )
    ours = linear_cross_entropy(hidden, weight, bias, labels)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(ours / 7, inputs), torch.autograd.grad(expected / 7, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    hidden, weight = torch.full((1, 1), 1e4), torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, None, torch.tensor([1]))
    torch.testing.assert_close(loss, torch.tensor(2e4))
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.ravel().tolist() == [1e4, -1e4]


def test_what_is_frozen_gets_no_gradient_and_autocast_is_kept() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, None, torch.tensor([0, 1, 2]))
    exact = linear_cross_entropy(hidden, weight, None, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)
    assert weight.grad is None
    assert hidden.grad is not None
