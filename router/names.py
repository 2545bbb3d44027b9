"""How are models, versions and aliases named?  (MLflow's rules for aliases, Triton's for versions)"""

from __future__ import annotations

import re

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_ALIAS = re.compile(r"[\w\-]{1,255}", re.ASCII)
_LIKE_A_VERSION = re.compile(r"[vV]?\d+")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_WEIGHT = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?%", re.ASCII)
_SHOWN_MAX = 80


class InvalidName(ValueError):
    """A name that no model, version or alias can have. The message is for the caller."""


def check_version(text: str) -> str:
    """Return `text` if it is a version: a positive integer without leading zeros."""
    if not _VERSION.fullmatch(text):
        raise InvalidName(
            f"{shown(text)} is no version; a version is a positive integer without leading zeros"
        )
    return text


def check_alias(text: str) -> str:
    """Return `text` if a version can have it as its alias.

    ``latest`` and what looks like a version are reserved, as in MLflow: ``v7`` could mean two things.
    """
    if not _ALIAS.fullmatch(text):
        raise InvalidName(f"{shown(text)} is no alias; it has 1 to 255 letters, digits, '_' and '-'")
    if text.lower() == "latest" or _LIKE_A_VERSION.fullmatch(text):
        raise InvalidName(f"the alias {text!r} is reserved; champion and challenger are usual ones")
    return text


def check_named(text: str) -> str:
    """Return `text` if it names a version: ``7``, or an alias as ``@champion``."""
    if text.startswith("@"):
        check_alias(text[1:])
        return text
    return check_version(text)


def reference(text: str) -> tuple[str, str]:
    """Split a reference into model and what it names of it, which is empty if it is the model as such.

    ``digits``, ``digits@7``, ``digits@champion``, and MLflow's ``models:/digits/7`` and
    ``models:/digits@champion`` are references.

    Raises
    ------
    InvalidName
        If it is none.
    """
    rest = text.removeprefix("models:/")
    model, slash, version = rest.partition("/") if rest != text else (rest, "", "")
    if slash:
        named = check_version(version)
    else:
        model, at, name = rest.partition("@")
        named = "" if not at else check_version(name) if name.isdecimal() else f"@{check_alias(name)}"
    if not _MODEL.fullmatch(model):
        raise InvalidName(
            f"{shown(text)} names no model; digits, digits@7, digits@champion and models:/digits/7 would"
        )
    return model, named


def weight_bp(text: str) -> int:
    """Read a weight, such as ``5%`` or ``0.25%``, as basis points.

    Raises
    ------
    InvalidName
        If it is none; a bare number could be a percentage, a share or basis points.
    """
    match = _WEIGHT.fullmatch(text)
    bp = int(match[1]) * 100 + int((match[2] or "0").ljust(2, "0")) if match else -1
    if not 0 <= bp <= 10_000:
        raise InvalidName(f"{shown(text)} is no weight; 5%, 0.25% and 100% are")
    return bp


def shown(text: str) -> str:
    """Quote somebody's text for a message, but never much of it."""
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "...")
