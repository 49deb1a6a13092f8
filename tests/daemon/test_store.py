"""The store's test of whether a version can be told as its parent, less some facts, plus some."""

import torch

from daemon.store import _grown_from
from editing.facts import Fact
from editing.state import EditState

ONE = EditState((Fact("a b", "The {} is", "c", "f1"),), columns={"w/keys": torch.ones(3, 1)})


def test_the_last_fact_taken_out_leaves_a_table_that_can_be_written():
    assert _grown_from(ONE.without(["f1"]), EditState()) == 0
    assert _grown_from(ONE.without(["f1"]), ONE) == 0


def test_columns_that_changed_make_a_snapshot():
    changed = EditState(ONE.facts, columns={"w/keys": torch.zeros(3, 1)})
    assert _grown_from(ONE, ONE) == 1
    assert _grown_from(ONE, changed) is None
