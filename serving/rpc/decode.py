"""What does a ModelInferRequest ask for? The same `Call` and payloads as a request over HTTP.

Clients repeat themselves: messages that differ in nothing but the id and the raw contents have one plan,
found by a comparison. All others are read in full: by protobuf, then by the rules of HTTP's JSON.
"""

from __future__ import annotations

from typing import NamedTuple

from serving.codec_binary import COPY_BYTES_MAX, all_bytes_will_do
from serving.config import Limits
from serving.document import PLAIN
from serving.memo import Memo
from serving.rpc.parse import Decoded, parse, raw_payload
from serving.rpc.walk import CONTINUED, ID, RAW, Walked, varint_bytes, walk
from serving.wire import Call, Payload

HEAD_BYTES_MAX = 4096
"""What a message has before its raw contents, if it has a plan."""
ID_TAG, RAW_TAG = bytes((ID,)), bytes((RAW,))


class Plan(NamedTuple):
    """What messages have in common that differ in nothing but the id and the raw contents.

    A message is `before`, perhaps an id, `after`, then `tail_bytes` of raw contents. Of these each of the
    `parts` has a size in bytes, and in front its tag and length; the first one's are in `after` already.
    """

    before: bytes
    after: bytes
    whole: bytes
    at: int
    whole_bytes: int
    """Both, their length, and the message's, where that has no id."""
    limits: Limits | None
    model: str
    version: str
    call: Call
    parts: tuple[tuple[bytes, int], ...]
    tail_bytes: int
    single: bool
    """The tail is the payload of the one input, whatever it is, and small."""


_PLANS: Memo[bytes, Plan] = Memo(entries_max=4096, entry_bytes_max=2 * HEAD_BYTES_MAX)
"""By what messages have before their raw contents, but for the id."""
_NEAR: Memo[tuple[bytes, int], Plan] = Memo(entries_max=4096, entry_bytes_max=2 * HEAD_BYTES_MAX)
"""The last plan of each model's name and length of a message: to find it there takes no walk."""
_IN_MEMORY: Memo[bytes, tuple[Decoded, Limits]] = Memo(entries_max=4096, entry_bytes_max=HEAD_BYTES_MAX)
"""What whole messages say whose inputs are all in shared memory."""
_recent = Plan(b"", b"", b"", 0, -1, None, "", "", Call(()), (), 0, single=False)
"""The plan of the message before, if it is `single`."""


def decode(message: bytes | memoryview, limits: Limits) -> Decoded:
    """Return what the message asks for. Small payloads are copied, large ones are views on it.

    Raises
    ------
    Invalid
        If it is no valid request; the message says where.
    Unknown
        If no model or version can have such a name.
    TooLarge
        If it has more tensors or elements than allowed.
    """
    global _recent  # noqa: PLW0603 - one reference for the process, replaced whole.
    plan = _recent
    # The same as the message before, whoever sent that: comparing costs less than hashing.
    if len(message) == plan.whole_bytes and message[: plan.at] == plan.whole and plan.limits is limits:
        return plan.model, plan.version, plan.call, (bytes(message[plan.at :]),), b""
    head = message if type(message) is bytes else bytes(message[: HEAD_BYTES_MAX + CONTINUED + 2])
    if plan.limits is limits and (found := _follow(plan, head, message)) is not None:
        return found
    near = (head[: 2 + head[1]], len(message)) if len(head) > 1 else (head, 0)
    known = _NEAR.get(near) or _NEAR.recall(near)
    if known is not None and known.limits is limits:
        found = _follow(known, head, message)
        if found is not None:
            if known.single:
                _recent = known
            return found
    return _decode(message, head, limits, near)


def _follow(plan: Plan, head: bytes, message: bytes | memoryview) -> Decoded | None:
    """Decode a message by a plan; None if it has another. `head` is its beginning."""
    before, after, _, _, whole_bytes, _, model, version, call, _, _, single = plan
    id_bytes = len(message) - whole_bytes - 2
    if id_bytes >= CONTINUED or not head.startswith(before):
        return None
    at, id_ = len(before), b""
    if id_bytes >= 0:
        begin = at + 2
        at = begin + id_bytes
        id_ = head[begin:at]
        if head[begin - 2 : begin] != b"\x1a%c" % id_bytes or id_.translate(None, PLAIN):
            return None
    elif id_bytes != -2:
        return None
    if not head.startswith(after, at):
        return None
    at += len(after)
    if single:
        return model, version, call, (bytes(message[at:]),), id_
    payloads = _cut(plan, message, at)
    return None if payloads is None else (model, version, call, payloads, id_)


def _cut(plan: Plan, message: bytes | memoryview, at: int) -> list[Payload] | None:
    """Cut the payloads out of the raw contents from `at` on; None if these are not divided as planned."""
    blob = memoryview(message) if plan.tail_bytes > COPY_BYTES_MAX else bytes(message)
    payloads: list[Payload] = []
    for index, (part_head, size_bytes) in enumerate(plan.parts):
        start = at + len(part_head)
        if blob[at:start] != part_head:
            return None
        at = start + size_bytes
        tensor = plan.call.inputs[index]
        if size_bytes > COPY_BYTES_MAX or not all_bytes_will_do(tensor):
            payloads.append(raw_payload(memoryview(blob)[start:at], tensor, index))
        else:
            payloads.append(bytes(blob[start:at]))
    return payloads


def _decode(message: bytes | memoryview, head: bytes, limits: Limits, near: tuple[bytes, int]) -> Decoded:
    """Decode a message whose plan, if it has one, is not near at hand."""
    small = len(message) <= HEAD_BYTES_MAX
    alike = _IN_MEMORY.recall(head) if small else None
    if alike is not None and alike[1] is limits:
        return alike[0]
    view = memoryview(message)
    walked = walk(view, limits.tensors_max)
    before, after = head[: walked.id_at], head[walked.id_end : walked.first_at]
    key = before + after if walked.usual and walked.first_at <= len(head) else b""
    plan = _PLANS.recall(key) if key else None
    if plan is not None and plan.limits is limits and (found := _follow(plan, head, message)) is not None:
        _NEAR.keep(near, plan, len(key))
        return found
    decoded = parse(walked.rest, walked.raws, limits)
    if small and decoded[2].shared and all([each.window for each in decoded[2].inputs]):
        _IN_MEMORY.keep(head, (decoded, limits), len(head))
    id_ = head[walked.id_at + 2 : walked.id_end]
    # Where the id needs escapes, or has a length of two bytes, nothing is learned.
    if key and not decoded[2].shared and len(id_) < CONTINUED and not id_.translate(None, PLAIN):
        plan = _plan(before, after, walked, decoded, limits)
        _PLANS.keep(key, plan, 2 * len(key))
        _NEAR.keep(near, plan, len(key))
    return decoded


def _plan(before: bytes, after: bytes, walked: Walked, decoded: Decoded, limits: Limits) -> Plan:
    """Return the plan of a valid message and of those like it."""
    model, version, call, _, _ = decoded
    first, *others = [len(raw) for raw in walked.raws]
    parts = ((b"", first), *[(RAW_TAG + varint_bytes(each), each) for each in others])
    tail_bytes = sum(len(part_head) + size_bytes for part_head, size_bytes in parts)
    small = not others and first <= COPY_BYTES_MAX
    return Plan(
        before,
        after,
        whole=before + after,
        at=len(before) + len(after),
        whole_bytes=len(before) + len(after) + tail_bytes,
        limits=limits,
        model=model,
        version=version,
        call=call,
        parts=parts,
        tail_bytes=tail_bytes,
        single=small and all_bytes_will_do(call.inputs[0]),
    )
