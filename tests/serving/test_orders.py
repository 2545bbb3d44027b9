"""What does an order say, and what of Triton's parameters is refused?"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import orders
from serving.orders import CONFIG_BYTES_MAX, Order, OrderMistake
from serving.private import NotPrivate

some_orders = st.dictionaries(
    st.text(min_size=1, max_size=8), st.builds(Order, st.booleans(), st.text(max_size=40)), max_size=5
)


@given(some_orders)
def test_what_is_written_down_is_read_again(tmp_path_factory, given_orders):
    path = tmp_path_factory.mktemp("orders") / orders.ORDERS
    orders.write(path, given_orders)
    assert orders.read(path) == given_orders
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_a_file_nothing_is_ordered(tmp_path):
    assert orders.read(tmp_path / orders.ORDERS) == {}


@pytest.mark.parametrize("content", ["", "[]", '{"m": 1}', '{"m": {"loaded": true}}', "no JSON"])
def test_a_file_that_a_gateway_did_not_write_is_a_mistake(tmp_path, content):
    path = tmp_path / orders.ORDERS
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(OrderMistake, match="not what a gateway wrote"):
        orders.read(path)


def test_a_file_that_others_could_have_written_is_not_read(tmp_path: Path):
    path = tmp_path / orders.ORDERS
    path.write_text("{}")
    path.chmod(0o644)
    with pytest.raises(NotPrivate):
        orders.read(path)


def test_orders_together_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(orders, "ORDERS_BYTES_MAX", 100)
    with pytest.raises(OrderMistake, match="more than 100 bytes"):
        orders.write(tmp_path / orders.ORDERS, {"m": Order(config="x" * 100)})
    assert not (tmp_path / orders.ORDERS).exists()


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"file:1/model.onnx": "AAAA"}, "models are not taken from a request"),
        ({"file:../../etc/passwd": None, "config": "{}"}, "models are not taken from a request"),
        ({"path": "/models"}, "unknown parameter 'path' of a load"),
        ({"config": {"name": "m"}}, "a string that holds"),
        ({"config": None}, "a string that holds"),
        ({"config": "x" * (CONFIG_BYTES_MAX + 1)}, "more than 49152 bytes"),
    ],
)
def test_a_load_takes_a_configuration_and_nothing_else(parameters, complaint):
    with pytest.raises(OrderMistake, match=complaint):
        orders.load(parameters)


def test_dependents_are_taken_note_of_and_do_not_matter():
    assert orders.unload({}) == orders.unload({"unload_dependents": True}) == Order(loaded=False)
    for wrong in ({"unload_dependents": "yes"}, {"config": "{}"}):
        with pytest.raises(OrderMistake, match="`unload_dependents` is known"):
            orders.unload(wrong)


@pytest.mark.parametrize("body", [b"", b"  ", b"{}", b'{"parameters": {}}'])
def test_an_empty_body_orders_without_parameters(body):
    assert orders.asked(body) == {}


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b'{"parameters": []}', b'{"config": "{}"}'])
def test_any_other_body_is_a_mistake(body):
    with pytest.raises(OrderMistake):
        orders.asked(body)
