"""What each replica gets of a cluster."""

from __future__ import annotations

import pytest

from serving.config import ConfigError, parse
from serving.placement import share


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
