"""Which models did the operator have loaded or unloaded, whatever the repository and its files say?

Orders outlive the gateway, in a file of its private folder: what was unloaded stays so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from serving import private

ORDERS = "orders.json"
"""Beside the journal."""
CONFIG_BYTES_MAX = 48 * 1024
"""Of a configuration that comes with an order."""
ORDERS_BYTES_MAX = 8 << 20
"""Of all orders together: they are told to replicas in one message."""
NO_SUCH_MODEL = "the repository has no model of this name"
_FILE = "file:"


class OrderMistake(ValueError):
    """An order that cannot be understood. The message is for the caller."""


@dataclass(frozen=True, slots=True)
class Order:
    """A model is to be loaded, or not to be.

    With a `config`, in JSON, that takes the place of its config.pbtxt.
    """

    loaded: bool = True
    config: str = ""

    def document(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"loaded": self.loaded, "config": self.config}


Orders = Mapping[str, Order]
"""By model."""


def parsed(document: Mapping[str, Any] | None) -> Order | None:
    """Return what `Order.document` wrote; None for none."""
    return None if document is None else Order(bool(document["loaded"]), str(document["config"]))


def documents(orders: Orders) -> dict[str, Any]:
    """Return orders as plain values."""
    return {model: order.document() for model, order in sorted(orders.items())}


def with_order(orders: Orders, model: str, order: Order | None) -> Orders:
    """Return orders with another one for a model, or with none for it."""
    rest = {name: each for name, each in orders.items() if name != model}
    return rest if order is None else rest | {model: order}


def load(parameters: Mapping[str, Any]) -> Order:
    """Return the order to load a model; `parameters` are Triton's.

    Raises
    ------
    OrderMistake
        If it asks for more than this server does.
    """
    for name in parameters:
        if name.startswith(_FILE):
            raise OrderMistake(
                "models are not taken from a request, so send no `file:` parameters; "
                "put the files into the repository and load the model then"
            )
        if name != "config":
            raise OrderMistake(f"unknown parameter {name[:80]!r} of a load; `config` is known")
    config = parameters.get("config", "")
    if not isinstance(config, str):
        raise OrderMistake("the parameter `config` is a string that holds a configuration in JSON")
    if len(config.encode(errors="replace")) > CONFIG_BYTES_MAX:
        raise OrderMistake(f"the parameter `config` has more than {CONFIG_BYTES_MAX} bytes")
    return Order(config=config)


def unload(parameters: Mapping[str, Any]) -> Order:
    """Return the order to unload a model. There are no dependents here, so it does not matter what of them.

    Raises
    ------
    OrderMistake
        If it asks for more than this server does.
    """
    for name, value in parameters.items():
        if name != "unload_dependents" or not isinstance(value, bool):
            raise OrderMistake(
                f"unknown parameter {name[:80]!r} of an unload; `unload_dependents` is known, true or false"
            )
    return Order(loaded=False)


def asked(body: bytes) -> Mapping[str, Any]:
    """Return the parameters in the body of a load or an unload; `OrderMistake` if it is none."""
    if not body.strip():
        return {}
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise OrderMistake(f"the body is not valid JSON: {error}") from None
    parameters = said.get("parameters", {}) if isinstance(said, dict) else None
    if not isinstance(parameters, dict) or set(said) - {"parameters"}:
        raise OrderMistake('expected an object such as {"parameters": {}}')
    return parameters


def read(path: Path) -> Orders:
    """Return the orders of a gateway's file; none if there is no file.

    Raises
    ------
    NotPrivate
        If others could have written it.
    OrderMistake
        If it is not what a gateway wrote.
    """
    try:
        content = private.read_bytes(path, ORDERS_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    try:
        found = {model: parsed(each) for model, each in orjson.loads(content).items()}
        return {model: order for model, order in found.items() if order is not None}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OrderMistake(
            f"{path} is not what a gateway wrote; remove it, and all that was ordered is forgotten"
        ) from None


def write(path: Path, orders: Orders) -> None:
    """Write orders down, all or nothing.

    Raises
    ------
    OrderMistake
        If they are too large.
    OSError
        If they cannot be written.
    """
    content = orjson.dumps(documents(orders), option=orjson.OPT_INDENT_2)
    if len(content) > ORDERS_BYTES_MAX:
        raise OrderMistake(f"the configurations of all orders have more than {ORDERS_BYTES_MAX} bytes")
    private.replace(path, content)
