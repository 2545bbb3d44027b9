"""What may be said to the admin application, and what does it answer?

Every body says at once which intent it is; an unknown field is a mistake with the nearest name.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from router.entry import WORDS_MAX
from router.intent import Alias, Intent, Mirror, Pin, Promote, Rollback, Split, Stick, Unpin
from router.names import InvalidName, check_alias, check_named, check_version, shown, weight_bp
from router.table import KEYS_MAX, SHADOWS_MAX, SHARES_MAX, Sticky

NO_REASON = "no reason given"
REVISION_MAX = (1 << 63) - 1


def _weight(text: str) -> str:
    weight_bp(text)
    return text


def _target(text: str) -> str:
    return text if text == "last-good" else check_named(text)


def _words(text: str) -> str:
    if not text.strip():
        raise InvalidName(f"{shown(text)} says nothing")
    return text


Words = Annotated[str, Field(min_length=1, max_length=WORDS_MAX), AfterValidator(_words)]
Named = Annotated[str, AfterValidator(check_named), Field(examples=["8"])]
"""A version, ``8``, or an alias, ``@champion``."""
Weight = Annotated[str, AfterValidator(_weight), Field(examples=["5%"])]
Revision = Annotated[int, Field(ge=0, le=REVISION_MAX)]


class Term(BaseModel):
    """A body of a request; what it does not know is a mistake."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _know(cls, said: Any) -> Any:
        for name in said if isinstance(said, dict) else ():
            if name not in cls.model_fields:
                near = get_close_matches(str(name)[:80], cls.model_fields, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(cls.model_fields)}"
                raise InvalidName(f"unknown field {shown(str(name))}; {hint}")
        return said


class Change(Term):
    """What every change may say."""

    by: Words = Field("admin", description="Who decided it, for the journal.")
    if_revision: Revision | None = Field(
        None, description="Refused with 412 unless this revision is in force."
    )
    dry_run: bool = Field(False, description="Decide, and do nothing.")
    atomic: bool = Field(
        False,
        description="Hold requests for the moment of the change, so that none that begins after one was "
        "answered by the new route is answered by the old one.",
    )


class Reasoned(Change):
    """A change that has to say why."""

    why: Words = Field(description="The reason, for the journal.", examples=["canary of 8"])


class SplitBody(Reasoned):
    """Which version gets which share of the traffic: all of them, adding up to 100%."""

    weights: dict[Named, Weight] = Field(max_length=SHARES_MAX, examples=[{"8": "5%", "7": "95%"}])

    def intent(self, model: str) -> Intent:
        """Return what is asked for."""
        return Split(model, tuple((named, weight_bp(text)) for named, text in self.weights.items()))


class ShadowBody(Reasoned):
    """Which versions get a copy of which share of the requests: exactly these; `{}` ends all shadows."""

    shadows: dict[Named, Weight] = Field(max_length=SHADOWS_MAX, examples=[{"9": "20%"}])

    def intent(self, model: str) -> Intent:
        """Return what is asked for."""
        return Mirror(model, tuple((named, weight_bp(text)) for named, text in self.shadows.items()))


class StickBody(Reasoned):
    """What makes requests those of one caller, so that they get one version; `[]` ends it."""

    keys: list[str] = Field(max_length=KEYS_MAX, examples=[["header:x-user-id", "id"]])
    salt: str = Field(
        "", max_length=WORDS_MAX, description="Another one deals all callers anew.", examples=["exp-1"]
    )

    def intent(self, model: str) -> Intent:
        """Return what is asked for."""
        return Stick(model, Sticky(tuple(self.keys), self.salt) if self.keys else None)


class PromoteBody(Reasoned):
    """The version that gets all of the traffic."""

    version: Named

    def intent(self, model: str) -> Intent:
        """Return what is asked for."""
        return Promote(model, self.version)


class PinBody(Reasoned):
    """The version that answers every request that names none, whatever the shares say."""

    version: Named

    def intent(self, model: str) -> Intent:
        """Return what is asked for."""
        return Pin(model, self.version)


class RollbackBody(Change):
    """Where to go back to; without either that is the last version known to be good."""

    why: Words = NO_REASON
    to: Annotated[str, AfterValidator(_target)] = Field(
        "last-good", description="A version, an `@alias`, or `last-good`.", examples=["7"]
    )
    to_revision: Revision | None = Field(
        None, description="The whole route as of a revision, instead of `to`."
    )

    def intent(self, model: str) -> Intent:
        """Return what is asked for."""
        to = self.to if "to" in self.model_fields_set else ""
        return Rollback(model, to, self.to_revision)


class UnpinBody(Change):
    """Let the shares count again."""

    why: Words = NO_REASON

    def intent(self, model: str) -> Intent:
        """Return what is asked for."""
        return Unpin(model)


class AliasBody(Change):
    """What an alias means from now on; `null` removes it."""

    why: Words = NO_REASON
    alias: Annotated[str, AfterValidator(check_alias)] = Field(examples=["champion"])
    version: Annotated[str, AfterValidator(check_version)] | None = Field(examples=["7"])

    def intent(self, model: str) -> Intent:
        """Return what is asked for."""
        return Alias(model, self.alias, self.version)


ChangeBody = SplitBody | ShadowBody | StickBody | PromoteBody | PinBody | RollbackBody | UnpinBody | AliasBody


class ErrorDocument(BaseModel):
    """What is wrong, where, and what would work."""

    error: str


class ReceiptDocument(BaseModel):
    """What came of a change: what is true now, for whom, and how it is taken back."""

    model_config = ConfigDict(extra="forbid")

    revision: int = Field(description="In force now; of a dry run, the one that it would have been.")
    model: str
    verb: str
    route: str = Field(
        description="The model's whole route from now on; empty of an alias.", examples=["8=5% 7=95%"]
    )
    change: dict[str, Any] = Field(description="The change as it is in the journal.")
    by: str
    why: str
    at: str = Field(examples=["2026-11-24T14:05:00.000000Z"])
    unchanged: bool = Field(description="It was so already; nothing was journalled.")
    dry_run: bool
    confirmed: bool = Field(
        description="No request that arrives anywhere from now on is answered as before the change."
    )
    acknowledged: list[str] = Field(description="Replicas that answer by this revision.")
    killed: list[str] = Field(description="Replicas that did not say so in time and were ended.")
    fenced: list[str] = Field(description="Replicas that did not, and whose lease has run out.")
    missing: list[str] = Field(description="Replicas of which nothing is known: these make it unconfirmed.")
    ms: float
    steps_ms: dict[str, float] = Field(description="Milliseconds of each step: compare to publish.")
    undo: str = Field(description="The command that takes it back; empty if there was nothing before it.")


class ModelTraffic(BaseModel):
    """How the traffic of one model stands."""

    route: str = Field(examples=["8=5% 7=95%"])
    shares: list[dict[str, Any]] = Field(description="version, weight_bp, and the share that it really gets.")
    shadows: list[dict[str, Any]]
    pinned: str
    sticky: dict[str, Any] | None
    aliases: dict[str, str]
    last_good: str = Field(description="What a rollback goes back to; empty if nothing is known.")
    versions_ready: dict[str, int] = Field(description="In how many replicas a version is ready.")
    since: dict[str, Any] = Field(description="The entry of the journal that made it so.")
    brakes: dict[str, str] = Field(description="Replicas whose brake is pulled, and what answers there.")
    split: dict[str, Any] = Field(description="Whether traffic is dealt as configured, by a sequential test.")
    replicas: list[dict[str, Any]] = []


class AllTraffic(BaseModel):
    """How the traffic of every model stands."""

    revision: int
    term: int
    lost_control: str
    models: dict[str, ModelTraffic]
    replicas: list[dict[str, Any]]


class HistoryDocument(BaseModel):
    """Who decided what about a model, when and why; and what was in force at a moment, if one is named."""

    model: str
    entries: list[dict[str, Any]] = Field(
        description="revision, at, by, why, verb, from, to, hash; oldest first."
    )
    at: dict[str, Any] | None = Field(description="time, revision and route.")


class AuditDocument(BaseModel):
    """The whole journal."""

    revision: int
    hash: str
    entries: list[dict[str, Any]]


class VerifiedDocument(BaseModel):
    """The journal is what was written."""

    ok: bool
    revision: int
    hash: str
