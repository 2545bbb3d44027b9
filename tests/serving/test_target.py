"""Paths of the V2 protocol: what each means, and that none has a second spelling."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Invalid, TurnoutError, Unknown, WrongMethod
from serving.target import ALLOW, Resource, Target, resolve

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"

MODELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True).filter(
    lambda name: ".." not in name and name != "stats"
)
VERSIONS = st.from_regex(r"[1-9][0-9]{0,17}", fullmatch=True)

PATHS = {
    "/v2": Target(Resource.SERVER_METADATA),
    "/v2/": Target(Resource.SERVER_METADATA),
    "/v2/health/live": Target(Resource.SERVER_LIVE),
    "/v2/health/ready": Target(Resource.SERVER_READY),
    "/v2/models/stats": Target(Resource.MODEL_STATS),
    "/v2/models/fraud": Target(Resource.MODEL_METADATA, "fraud"),
    "/v2/models/fraud/ready": Target(Resource.MODEL_READY, "fraud"),
    "/v2/models/fraud/config": Target(Resource.MODEL_CONFIG, "fraud"),
    "/v2/models/fraud/stats": Target(Resource.MODEL_STATS, "fraud"),
    "/v2/models/fraud/infer": Target(Resource.MODEL_INFER, "fraud"),
    "/v2/models/fraud/versions/7": Target(Resource.MODEL_METADATA, "fraud", "7"),
    "/v2/models/fraud/versions/7/ready": Target(Resource.MODEL_READY, "fraud", "7"),
    "/v2/models/fraud/versions/7/config": Target(Resource.MODEL_CONFIG, "fraud", "7"),
    "/v2/models/fraud/versions/7/stats": Target(Resource.MODEL_STATS, "fraud", "7"),
    "/v2/models/fraud/versions/7/infer": Target(Resource.MODEL_INFER, "fraud", "7"),
    "/v2/repository/index": Target(Resource.REPOSITORY_INDEX),
    "/v2/repository/models/fraud/load": Target(Resource.REPOSITORY_LOAD, "fraud"),
    "/v2/repository/models/fraud/unload": Target(Resource.REPOSITORY_UNLOAD, "fraud"),
    "/v2/trace/setting": Target(Resource.TRACE),
    "/v2/models/fraud/trace/setting": Target(Resource.TRACE, "fraud"),
    "/v2/logging": Target(Resource.LOGGING),
    "/v2/systemsharedmemory/status": Target(Resource.MEMORY_STATUS),
    "/v2/systemsharedmemory/unregister": Target(Resource.MEMORY_UNREGISTER),
    "/v2/systemsharedmemory/region/a/status": Target(Resource.MEMORY_STATUS, region="a"),
    "/v2/systemsharedmemory/region/a/register": Target(Resource.MEMORY_REGISTER, region="a"),
    "/v2/systemsharedmemory/region/a/unregister": Target(Resource.MEMORY_UNREGISTER, region="a"),
    "/v2/cudasharedmemory/status": Target(Resource.CUDA_STATUS),
    "/v2/cudasharedmemory/region/a/status": Target(Resource.CUDA_STATUS, region="a"),
    "/v2/cudasharedmemory/region/a/register": Target(Resource.CUDA_REGISTER, region="a"),
    "/v2/cudasharedmemory/region/a/unregister": Target(Resource.CUDA_UNREGISTER, region="a"),
    "/v2/cudasharedmemory/unregister": Target(Resource.CUDA_UNREGISTER),
}


@pytest.mark.parametrize(("path", "target"), PATHS.items())
def test_every_path_of_the_protocol_means_what_it_says(path: str, target: Target) -> None:
    """Each method that a resource allows reaches it, with and without a query."""
    for method in ALLOW[target.resource].split(", "):
        changes = method == "POST" and "GET" in ALLOW[target.resource]
        assert resolve(method, path) == replace(target, changes=changes)
        assert resolve(method, path + "?verbose=%2F..//") == resolve(method, path)


@pytest.mark.parametrize(("path", "target"), PATHS.items())
def test_a_wrong_method_is_told_the_right_ones(path: str, target: Target) -> None:
    """A resource that exists is never answered as if it did not."""
    for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"} - set(
        ALLOW[target.resource].split(", ")
    ):
        with pytest.raises(WrongMethod, match=ALLOW[target.resource]) as caught:
            resolve(method, path)
        assert caught.value.allow == ALLOW[target.resource]


def test_every_resource_has_a_path_and_methods() -> None:
    """The tables of the tests and of the module leave none out."""
    real = set(Resource) - {Resource.NOWHERE}
    assert {target.resource for target in PATHS.values()} == real == set(ALLOW)


def test_whatever_can_be_read_can_be_asked_for_with_head() -> None:
    """GET resources also answer HEAD."""
    assert all(("GET" in allow) == ("HEAD" in allow) for allow in ALLOW.values())


@given(MODELS, VERSIONS)
def test_any_admissible_name_and_version_are_taken_as_they_are(model: str, version: str) -> None:
    """What was asked for is what is looked up."""
    path = f"/v2/models/{model}/versions/{version}/infer"
    assert resolve("POST", path) == Target(Resource.MODEL_INFER, model, version)


@given(st.text(max_size=40), st.sampled_from(["GET", "POST", "FOO"]))
def test_any_text_is_a_target_or_an_error_of_ours(text: str, method: str) -> None:
    """No path breaks the parser, and no name leaves it that is not admissible."""
    for path in (text, f"/v2/models/{text}/infer", f"/v2/models/m/versions/{text}/infer"):
        try:
            target = resolve(method, path)
        except TurnoutError as error:
            assert 0 < len(str(error)) < 400
        else:
            assert target.model == "" or target.model.isascii()
            assert target.version == "" or int(target.version) > 0


@given(MODELS, st.characters(min_codepoint=0, max_codepoint=0x2FF))
def test_no_other_byte_can_hide_in_a_name(model: str, other: str) -> None:
    """A name with a byte more is that longer name, or refused, or its rest is the query."""
    try:
        target = resolve("GET", f"/v2/models/{model}{other}")
    except (Invalid, Unknown):
        return
    assert target.model == model + other or other == "?"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/%66raud",
        "/v2/models/..%2f..",
        "/v2/models/../secret/infer",
        "/v2/models/a..b",
        "/v2/models/a\\b",
        "/v2//models/a",
        "/v2/models//infer",
        "/v2/models/a/",
        "/v2/models/a/infer/",
        "//v2",
        "/v2//",
        "/v2/models/a#b",
        "/v2/models/a b",
        "/v2/models/a\x00",
        "/v2/models/a\x7f",
        "/v2/models/\xe9",
        "/v2/models/\uff21",
        "/v2?\xe9",
    ],
)
def test_a_path_that_readers_could_differ_on_is_invalid(path: str) -> None:
    """Nothing is decoded or normalised, so what would need it is refused."""
    with pytest.raises(Invalid):
        resolve("GET", path)


@pytest.mark.parametrize(
    "path",
    [
        "*",
        "",
        "/",
        "/metrics",
        "/v1/models/a",
        "/v22",
        "/v2/model/a",
        "/v2/models",
        "/v2/models/a/versions",
        "/v2/models/a/versions/1/trace/setting",
        "/v2/models/a/generate",
        "/v2/systemsharedmemory",
        "/v2/systemsharedmemory/register",
        "/v2/systemsharedmemory/region/a",
        "/v2/systemsharedmemory/region/a/b/status",
        "/v2/health",
        "/V2/health/live",
    ],
)
def test_a_path_that_is_not_there_is_unknown(path: str) -> None:
    """The answer names paths that are."""
    with pytest.raises(Unknown, match="/v2"):
        resolve("GET", path)


@pytest.mark.parametrize("version", ["0", "01", "-1", "+1", "1.0", "latest", "1" * 19, "0x1"])
def test_a_version_is_a_positive_integer(version: str) -> None:
    """Anything else is unknown, and the answer says what a version is."""
    with pytest.raises(Unknown, match="positive integer"):
        resolve("GET", f"/v2/models/a/versions/{version}")


@pytest.mark.parametrize("model", [".hidden", "-a", "_a", "a" * 129, "a:b", "a@7", "a,b", "~a"])
def test_a_model_name_has_bounds(model: str) -> None:
    """Anything else is unknown, and the answer says what a name is."""
    with pytest.raises(Unknown, match="1 to 128 letters"):
        resolve("GET", f"/v2/models/{model}")


def test_an_error_repeats_only_a_little_of_a_long_path() -> None:
    """An answer is never much longer than it has to be."""
    with pytest.raises(Unknown) as caught:
        resolve("GET", "/v2/models/" + "a" * 100_000)
    assert len(str(caught.value)) < 300


def test_the_reference_lists_every_path_with_its_methods() -> None:
    """Documentation that is not held true is wrong sooner or later."""
    rows = [line for line in REFERENCE.read_text().splitlines() if line.startswith("| `/v2")]
    listed = {}
    for row in rows:
        _, paths, methods, *_ = (cell.strip() for cell in row.split("|"))
        for path in paths.split("`")[1::2]:
            for spelt in (re.sub(r"[][]", "", path), re.sub(r"\[.*\]", "", path)):
                listed[spelt.replace("NAME", "fraud").replace("/N", "/7")] = methods
    ours = {path.replace("/a/", "/REGION/"): ALLOW[target.resource] for path, target in PATHS.items()}
    assert listed == ours
