"""What does one read at /docs? The description of the application as a page that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Turnout</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}
code{background:#8882;padding:0 .2em}td{padding-right:1em;vertical-align:top}</style>"""


def page(schema: Mapping[str, Any]) -> str:
    """Write what OpenAPI says as HTML."""
    return "\n".join(_lines(schema))


def _lines(schema: Mapping[str, Any]) -> Iterator[str]:
    about = schema["info"]
    yield HEAD
    yield f"<h1>{escape(about['title'])} {escape(about['version'])}</h1><p>{escape(about['description'])}</p>"
    yield "<p>For programs: <code>/openapi.json</code>.</p>"
    for tag in schema["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>"
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation["tags"]:
                    yield f"<h3><code>{method.upper()} {escape(path)}</code></h3>"
                    yield f"<p>{escape(operation.get('description', ''))}</p>"
                    yield from _fields(schema, operation)


def _fields(schema: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[str]:
    """Write the fields of an operation's body as rows of a table."""
    name = _body_name(operation)
    if not name:
        return
    body = schema["components"]["schemas"][name]
    yield f"<p>{escape(body.get('description', ''))}</p><table>"
    for field, about in body["properties"].items():
        needed = "needed" if field in body.get("required", ()) else f"default {about.get('default')!r}"
        cells = (f"<code>{escape(field)}</code>", escape(needed), escape(about.get("description", "")))
        yield f"<tr>{''.join(f'<td>{cell}' for cell in cells)}"
    yield "</table>"


def _body_name(operation: Mapping[str, Any]) -> str:
    said = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    options = [said, *said.get("anyOf", ())]
    return next((each["$ref"].rpartition("/")[2] for each in options if "$ref" in each), "")
