"""The rows of joint training: exact quotas, places shared evenly, one order whatever the world size or the start."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from pipeline.data.sources import source_of
from pipeline.graph import step
from pipeline.physics.views import Crop
from stages.ingest import Ingest
from stages.joint import Rows, TrainJoint, mixed
from stages.train import Fit

KINDS = [torch.arange(10.0)[:, None], 100 + torch.arange(7.0)[:, None], 200 + torch.arange(3.0)[:, None]]
QUOTAS = [6, 6, 4]


def taken(start, steps, rank=0, world=1):
    return list(islice(mixed(KINDS, QUOTAS, 5, start, rank, world), steps))


def test_every_batch_has_its_quota_of_each_kind_and_the_index_names_the_row():
    rows = torch.cat(KINDS)
    for batch in taken(0, 20):
        assert [int(((batch.x // 100) == k).sum()) for k in range(3)] == QUOTAS
        assert torch.equal(rows[batch.index], batch.x)


def test_a_kind_comes_round_completely_before_it_repeats():
    seen = torch.cat([batch.x[batch.x >= 200] for batch in taken(0, 3)])
    for epoch in seen.split(3):
        assert sorted(epoch.tolist()) == [200, 201, 202]


def test_the_order_is_the_same_from_any_start_and_on_any_number_of_workers():
    whole = torch.cat([batch.x for batch in taken(0, 9)])
    late = torch.cat([batch.x for batch in taken(4 * 16, 5)])
    assert torch.equal(late, whole[4 * 16 :])
    shares = [taken(0, 9, rank, 4) for rank in range(4)]
    parts = [torch.cat([share[i].x for share in shares]) for i in range(9)]
    assert torch.equal(torch.cat(parts), whole)
    assert [share[0].offset for share in shares] == [0, 4, 8, 12]


def test_no_kind_has_a_stretch_of_places_to_itself():
    """Levels are stratified over places: each quarter of a batch has each kind in proportion, to within one row."""
    batch = taken(0, 1)[0]
    for quarter in batch.x.split(4):
        counts = [int(((quarter // 100) == k).sum()) for k in range(3)]
        assert all(abs(count - quota / 4) <= 1 for count, quota in zip(counts, QUOTAS, strict=True))


def _stage(**more):
    data = step(Ingest(source_of("digits"), (1, 8, 8)))
    return TrainJoint((Rows(Crop((1, 8, 8), 0, 0, 8, 5), data),), data, **more)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_of_none_or_all_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        _stage(share=share)


def test_a_batch_too_small_and_shifted_rows_are_refused():
    with pytest.raises(ValueError, match="give a larger"):
        _stage(fit=Fit(batch=1))
    with pytest.raises(ValueError, match="shift"):
        _stage(fit=Fit(shift=1))
