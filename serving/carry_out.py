"""How is an order to load or unload a model carried out? Whole, or not at all.

Everything is loaded and warmed before any of it answers. What is served meanwhile stays as it is, and if
something cannot be loaded, for good.
"""

from __future__ import annotations

from dataclasses import replace

from serving import loader, repository
from serving.index import Standing, State
from serving.loader import Prepared
from serving.orders import NO_SUCH_MODEL, Order, Orders, with_order
from serving.plan import Plan
from serving.repository import Candidate
from serving.shelf import Shelf


async def carry_out(shelf: Shelf, model: str, order: Order | None) -> str:
    """Load or unload a model; None takes the word back that there was. Return why it cannot be.

    Raises
    ------
    OSError, Refusal
        If the repository itself cannot be read.
    """
    if order is not None and order.loaded:
        return await _load(shelf, model, order)
    before = shelf.orders.get(model)
    shelf.orders = with_order(shelf.orders, model, order)
    if order is None and shelf.wanted and model not in shelf.wanted:
        await shelf.unload(model)
        return ""
    await shelf.refresh([model])
    if order is None or model in shelf.index:
        return ""
    shelf.orders = with_order(shelf.orders, model, before)
    return NO_SUCH_MODEL


async def follow(shelf: Shelf, orders: Orders) -> None:
    """Carry out what is ordered elsewhere and not here."""
    for model in sorted({*shelf.orders, *orders}):
        if shelf.orders.get(model) != orders.get(model):
            fault = await carry_out(shelf, model, orders.get(model))
            if fault:  # Each look at the repository tries it again.
                shelf.orders = with_order(shelf.orders, model, orders.get(model))


async def _load(shelf: Shelf, model: str, order: Order) -> str:
    async with shelf._changing:
        shelf._failures.forget(model)
        lines, keeping, orders = dict(shelf.index.get(model, {})), shelf.keeping, shelf.orders
        candidates = await shelf._in_loader(repository.scan, shelf.config.repository.path)
        candidate = candidates.get(model)
        if candidate is None:
            return NO_SUCH_MODEL
        shelf.orders = with_order(orders, model, order)
        plan = await shelf._plan(model, candidate, frozenset())
        prepared = await _prepare(shelf, plan, candidate) if plan is not None else []
        fault = _fault(shelf, plan, candidate)
        if plan is None or fault:
            del prepared
            await shelf._in_loader(loader.give_back)
            shelf.keeping, shelf.orders = keeping, orders
            shelf.index[model] = lines | _told(lines, plan, fault)
            return fault
        await _put_up(shelf, plan, prepared)
        shelf._forget(candidates)
        return ""


async def _put_up(shelf: Shelf, plan: Plan, prepared: list[Prepared]) -> None:
    for version in list(plan.artifacts):
        if shelf._serves(plan, version):
            shelf._retune(plan, version)
    for each in prepared:
        await shelf._show(plan, each)
    await shelf._drop_rest(plan)


async def _prepare(shelf: Shelf, plan: Plan, candidate: Candidate) -> list[Prepared]:
    """Return what is to be put up, loaded and warmed; as far as everything can be."""
    await shelf._admit([plan])
    prepared: list[Prepared] = []
    for version, artifact in list(plan.artifacts.items()):
        if _fault(shelf, plan, candidate):
            return []
        if not shelf._serves(plan, version):
            shelf._note(plan.model, version, State.LOADING)
            one = await shelf._prepared(plan, artifact)
            prepared += [one] if one is not None else []
    return prepared


def _fault(shelf: Shelf, plan: Plan | None, candidate: Candidate) -> str:
    """Say why a model cannot be loaded; versions whose folders are gone serve on out of the store."""
    whole = shelf.index.get(candidate.name, {}).get("")
    if plan is None or not (plan.artifacts or plan.faults):
        return whole.reason if whole is not None and whole.reason else "no version of it is to be loaded"
    there = {str(version) for version in (*candidate.versions, *candidate.faults)}
    told = {version: fault for version, fault in plan.faults.items() if version in there}
    if not plan.artifacts:
        told = plan.faults
    return "; ".join(f"version {version}: {fault}" for version, fault in sorted(told.items()))


def _told(lines: dict[str, Standing], plan: Plan | None, fault: str) -> dict[str, Standing]:
    """Return the lines that say why a load failed, beside what is served as before."""
    faults = plan.faults if plan is not None and plan.faults else {"": fault}
    serving = {version for version, standing in lines.items() if standing.state is State.READY}
    return {
        version: replace(lines[version], reason=reason)
        if version in serving
        else Standing(State.UNAVAILABLE, reason)
        for version, reason in faults.items()
    }
