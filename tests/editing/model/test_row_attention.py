"""Attention row by row against attention over the whole sequence with a mask."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from editing.model.forward import additive
from editing.model.row_attention import Grid, _Attend, by_rows

#: Suffix tokens of each row, and how many prefix tokens it sees; one row sees none.
LENGTHS, SEEN, BEFORE = (3, 1, 4, 1), (5, 0, 2, 7), 7


def rows_and_mask(window=None):
    """`row` [n], `first` [rows] and which tokens each sees [n, BEFORE + n]."""
    row = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    first = torch.searchsorted(row, torch.arange(len(LENGTHS)))
    prefix = torch.arange(BEFORE) < torch.tensor(SEEN)[row][:, None]
    step = torch.arange(len(row)) - first[row]
    own = (row[:, None] == row) & (step[:, None] >= step)
    if window is not None:
        # The first prefix tokens are out of sight for a row's later ones.
        prefix = prefix & (torch.arange(BEFORE) >= step[:, None])
        own = own & (step[:, None] - step < window)
    return row, first, torch.cat([prefix, own], dim=1)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (3, 1)])
def test_rows_equal_one_sequence_with_a_mask(heads, window):
    generator = torch.Generator().manual_seed(0)
    row, first, allowed = rows_and_mask(window)
    mask = additive(allowed, torch.float64)
    many, few = heads

    def drawn(count, length):
        return torch.randn(1, count, length, 8, generator=generator, dtype=torch.float64)

    query, key, value = drawn(many, len(row)), drawn(few, allowed.shape[1]), drawn(few, allowed.shape[1])
    weight = drawn(many, len(row)).transpose(1, 2)
    given = [x.requires_grad_(True) for x in (query, key, value)]
    ours = _Attend.apply(query, key, value, Grid.of(mask, row, first), 0.3)
    wanted = scaled_dot_product_attention(*given, attn_mask=mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(ours, wanted)
    for place, (a, b) in enumerate(
        zip(*(torch.autograd.grad((x * weight).sum(), given) for x in (ours, wanted)), strict=True)
    ):
        behind = 0 if place == 0 else BEFORE
        torch.testing.assert_close(a[:, :, behind:], b[:, :, behind:])
        assert not a[:, :, :behind].any(), "the prefix gets no gradient"


def test_a_model_has_its_own_attention_back_after_an_error(editor):
    config = editor.model.config
    used = config._attn_implementation

    def failing():
        with by_rows(editor.loaded) as on:
            assert on
            assert config._attn_implementation != used
            raise ValueError("a block failed")

    with pytest.raises(ValueError, match="a block failed"):
        failing()
    assert config._attn_implementation == used
