"""What each replica gets of a cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import ConfigError, parse
from serving.placement import on_gpus, share


@pytest.mark.parametrize(
    ("section", "there", "each", "surge_percent"),
    [
        ({}, (2, 0), (1, 0), 100),
        ({"replicas": 2}, (2, 0), (1, 0), 0),
        ({"replicas": 3}, (4, 0), (1, 0), 33),
        ({}, (8, 1), (1, 1), 0),
        ({}, (8, 2), (1, 1), 100),
        ({"replicas": 4}, (8, 1), (1, 0.25), 0),
        ({"gpus": 0.5}, (8, 1), (1, 0.5), 100),
        ({"replicas": 3}, (8, 2), (1, 0.5), 33),
        ({"replicas": 5}, (8, 2), (1, 0.33), 20),
        ({"gpus": 2}, (8, 4), (1, 2), 100),
        ({"replicas": 2}, (8, 0.5), (1, 0.25), 0),
    ],
)
def test_replicas_share_what_is_there(section, there, each, surge_percent) -> None:
    found = share(parse({"ray": section}), *there)
    assert (found.cpus, found.gpus, found.surge_percent) == (*each, surge_percent)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"engine": {"device": "gpu"}}, "this machine shows no GPU"),
        ({"ray": {"gpus": 1}}, r"ray.gpus = 1 for each of 1 replicas: the cluster has 0"),
        ({"ray": {"cpus": 3}}, r"ray.cpus = 3 for each of 1 replicas: the cluster has 2"),
    ],
)
def test_a_cluster_too_small_is_said_before_serve_waits_for_it(document, message) -> None:
    with pytest.raises(ConfigError, match=message):
        share(parse(document), 2, 0)


@pytest.mark.parametrize("each", [0.6, 1.5])
def test_a_part_of_a_gpu_is_never_put_together_of_two(each):
    """0.6 for each of 3 replicas is less than 2 GPUs, and still only two of them find room."""
    with pytest.raises(ConfigError, match=f"ray.gpus = {each:g}"):
        share(parse({"ray": {"gpus": each, "replicas": 3}}), 8, 2 if each < 1 else 4.5)


@given(replicas=st.integers(1, 64), gpus=st.integers(0, 16))
def test_replicas_that_share_gpus_by_themselves_all_find_room_on_one(replicas, gpus):
    each = share(parse({"ray": {"replicas": replicas, "cpus": 0}}), 8, gpus).gpus
    assert (each > 0) is (gpus > 0)
    rooms = [1.0] * gpus
    for _ in range(replicas if gpus else 0):
        at = max(range(gpus), key=rooms.__getitem__)
        rooms[at] -= each
        assert rooms[at] > -1e-9


@given(each=st.integers(1, 100).map(lambda part: part / 100), gpus=st.integers(0, 8))
def test_as_many_have_room_as_can_be_put_on_gpus_one_by_one(each, gpus):
    one, left = 0, 100
    while left >= round(each * 100):
        one, left = one + 1, left - round(each * 100)
    assert on_gpus(each, gpus) == one * gpus
