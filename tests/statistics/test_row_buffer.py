import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cka_tools.statistics.hsic import product_dtype_on
from cka_tools.statistics.moments import SUM_ROWS, RowBuffer, column_means

CPU = torch.device("cpu")


def batches(sizes, means, dtype):
    """For each size two layers, of widths 3 and 5."""
    g = torch.Generator().manual_seed(len(sizes))
    return [
        [(mean + 30 * torch.randn(n, p, generator=g, dtype=torch.float64)).to(dtype) for p in (3, 5)]
        for n, mean in zip(sizes, means, strict=True)
    ]


@given(
    sizes=st.lists(st.integers(1, 2 * SUM_ROWS), min_size=1, max_size=4),
    means=st.lists(st.sampled_from([0.0, 3000.0]), min_size=4, max_size=4),
    in_float32=st.booleans(),
    products_in_float32=st.booleans(),
)
def test_centred_rows_are_the_rows_less_their_mean(sizes, means, in_float32, products_in_float32):
    dtype = torch.float32 if in_float32 else torch.float64
    product_dtype = torch.float32 if products_in_float32 else torch.float64
    parts = batches(sizes, means[: len(sizes)], dtype)
    buffer = RowBuffer(product_dtype, CPU)
    for layers in parts:
        buffer.append(layers, layers[::-1])
    whole = torch.cat([torch.cat([x.double() for x in layers], dim=1) for layers in parts])
    mean = whole.mean(0)
    (X, Y), (shift, _) = buffer.centred()
    # A rounding step of float32 at 3,000 is 2.4e-4.
    limit = 2e-3 if products_in_float32 else 1e-9
    assert X.dtype == product_dtype
    assert shift.dtype == torch.float64
    assert (X.double() - (whole - mean)).abs().max() < limit
    assert (shift - mean).abs().max() < limit
    swapped = torch.cat([Y[:, 5:], Y[:, :5]], dim=1)
    assert (X - swapped).abs().max() < limit
    assert buffer.rows == len(whole)


def test_float32_rows_less_a_float32_shift_are_rounded_once():
    x = (3000 + 30 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))).float()
    buffer = RowBuffer(torch.float32, CPU)
    buffer.append([x], [x])
    (X, _), (shift, _) = buffer.centred()
    assert torch.equal(shift, shift.float().double())
    assert torch.equal(X, (x.double() - shift).float())


def test_rows_are_copies_and_another_buffers_rows_stay():
    x = torch.randn(6, 4)
    first, second = RowBuffer(torch.float64, CPU), RowBuffer(torch.float64, CPU)
    first.append([x], [x])
    second.append([x + 3000], [x + 3000])
    before = first.gathered()[0].clone()
    x.zero_()
    assert torch.equal(first.gathered()[0], before)
    kept = second.gathered()[0].clone()
    first.add_from(second)
    (X, _), _ = first.centred()
    assert first.rows == 12
    assert X.mean(0).abs().max() < 1e-9
    assert torch.equal(second.gathered()[0], kept)


def test_half_precision_rows_keep_their_values():
    x = torch.randn(9, 4).to(torch.bfloat16)
    buffer = RowBuffer(torch.float64, CPU)
    buffer.append([x], [x])
    (X, _), (shift, _) = buffer.centred()
    assert (X + shift - x.double()).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_means_of_columns(dtype):
    x = (100 + torch.randn(3 * SUM_ROWS + 7, 5)).to(dtype)
    assert (column_means(x) - x.double().mean(0)).abs().max() < 1e-4
    assert column_means(x).dtype == torch.float64


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), torch.float64), ((8, 0), torch.float64), ((8, 9), torch.float32), ((10, 3), torch.float32)],
)
def test_a_gpu_with_slow_float64_makes_float32_products(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert product_dtype_on(torch.device("cuda")) == expected
    assert product_dtype_on(CPU) == torch.float64
