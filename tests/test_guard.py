"""What is gone, what is hidden, and what is not to be believed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flask_artifact_cache.refresh.guard import is_mass_loss, losses
from flask_artifact_cache.refresh.selection import Known

ROWS = st.lists(st.integers(0, 200), unique=True).map(
    lambda numbers: [Known(number, f"uid-{number}", f"path-{number}") for number in numbers]
)


def judge(known, seen, uncertain=(), **options):
    settings = {"is_empty": False, "percent": 20, "confirmed": 0, **options}
    absent = [row for row in known if row.uid not in seen]
    return losses(absent, len(known), is_hidden=lambda path: path in uncertain, **settings)


@given(known=ROWS, data=st.data())
def test_every_known_row_is_seen_gone_or_hidden(known, data):
    names = [row.uid for row in known]
    seen = set(data.draw(st.lists(st.sampled_from(names)))) if names else set()
    paths = [row.path for row in known]
    uncertain = set(data.draw(st.lists(st.sampled_from(paths)))) if paths else set()

    lost = judge(known, seen, uncertain)

    assert len(lost.gone) + lost.hidden + len(seen) == len(known)
    assert not any(row.path in uncertain for row in lost.gone)
    assert bool(lost.withheld) == (len(lost.gone) > 10 and len(lost.gone) > len(known) * 0.2)


@given(known=ROWS, confirmed=st.integers(0, 300))
def test_what_was_confirmed_is_let_go_and_no_more(known, confirmed):
    lost = judge(known, set(), confirmed=confirmed, is_empty=True)

    assert lost.withheld == (len(known) if len(known) > confirmed else 0)
    assert lost.emptied == bool(lost.withheld)


def test_a_folder_that_was_always_empty_loses_nothing():
    assert not judge([], set(), is_empty=True).withheld


def test_the_share_is_a_limit_that_may_be_reached():
    assert not is_mass_loss(20, 100, 20)
    assert is_mass_loss(21, 100, 20)
    assert not is_mass_loss(10, 10, 20)
    assert not is_mass_loss(1000, 1000, 100)
