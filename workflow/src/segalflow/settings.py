"""Checking a study's settings against their JSON schema, in sentences a user can act on.

The schema (``workflow/schemas/config.schema.yaml``) is the one place where every key's meaning, unit, default and
consequence is written; `config/README.md` is made from it by `describe_keys`. This module takes plain dictionaries: who
reads the file is not its concern.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from segalflow.errors import SettingsError, suggest

_TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "nothing",
}


def _resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a local ``$ref``; keys beside it win."""
    if "$ref" not in schema:
        return schema
    target: Any = root
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return {**_resolve(target, root), **{k: v for k, v in schema.items() if k != "$ref"}}


def with_defaults(settings: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """Return `settings` with the schema's defaults filled in, at every depth.

    A block marked ``x-partial`` holds overrides of another block and gets no defaults of its own.
    """
    root = schema if root is None else root
    schema = _resolve(schema, root)
    if not isinstance(settings, Mapping) or schema.get("x-partial"):
        return copy.deepcopy(settings)
    filled = {k: v for k, v in settings.items()}
    for key, part in schema.get("properties", {}).items():
        resolved = _resolve(part, root)
        if key not in filled and "default" in resolved:
            filled[key] = copy.deepcopy(resolved["default"])
        if key in filled:
            filled[key] = with_defaults(filled[key], part, root)
    every = schema.get("additionalProperties")
    if isinstance(every, Mapping):
        for key in [k for k in filled if k not in schema.get("properties", {})]:
            filled[key] = with_defaults(filled[key], every, root)
    return filled


def _key(path: Any) -> str:
    return ".".join(str(p) for p in path) or "the config"


def _sentence(error: jsonschema.ValidationError) -> str:
    where = _key(error.absolute_path)
    inside = "the config" if where == "the config" else f"'{where}'"
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = next(k for k in error.instance if k not in known)
        hint = suggest(unknown, known) or f", expected one of {', '.join(known)}"
        return f"unknown key '{unknown}' in {inside}{hint}"
    if error.validator == "required":
        missing = next(k for k in error.validator_value if k not in error.instance)
        return f"the key '{missing}' is missing in {inside}"
    if error.validator == "type":
        kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        return f"{where}: expected {' or '.join(_TYPE_NAMES[k] for k in kinds)}, found {error.instance!r}"
    if error.validator == "enum":
        choices = [str(v) for v in error.validator_value]
        return (
            f"{where}: expected one of {', '.join(choices)}, found {error.instance!r}{suggest(error.instance, choices)}"
        )
    if error.validator in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        sign = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}[error.validator]
        return f"{where}: expected a number {sign} {error.validator_value}, found {error.instance!r}"
    if error.validator in ("minItems", "minProperties"):
        return f"{where}: expected at least {error.validator_value} entries, found {error.instance!r}"
    if error.validator == "maxItems":
        wanted = error.schema.get("x-expected", f"at most {error.validator_value} entries")
        return f"{where}: expected {wanted}, found {error.instance!r}"
    if error.validator == "pattern":
        return f"{where}: {error.instance!r} does not fit the pattern {error.validator_value}"
    if error.validator in ("oneOf", "anyOf"):
        wanted = error.schema.get("x-expected", "one of the forms in config/README.md")
        return f"{where}: expected {wanted}, found {error.instance!r}"
    return f"{where}: {error.message}"


def check_settings(settings: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` with defaults filled in, checked against `schema`.

    Raises:
        SettingsError: one sentence about the first thing that is wrong (unknown keys first).
    """
    for old, advice in schema.get("x-renamed", {}).items():
        if old in settings:
            raise SettingsError(f"the key '{old}' is no longer used: {advice}")
    filled = with_defaults(settings, schema)
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(filled))
    if errors:
        rank = {"additionalProperties": 0, "required": 1, "type": 2}
        errors.sort(key=lambda e: (rank.get(e.validator, 3), len(e.absolute_path), _key(e.absolute_path)))
        raise SettingsError(_sentence(errors[0]))
    return filled


def merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the entries of `override` put in, mapping by mapping."""
    result = copy.deepcopy(dict(base))
    for key, value in override.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def describe_keys(schema: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield one row (key, meaning, unit, default, reruns) for every key of the schema, in its order."""
    yield from _describe(schema, schema, "", "")


def _describe(schema: Mapping[str, Any], root: Mapping[str, Any], prefix: str, reruns: str) -> Iterator[dict[str, str]]:
    schema = _resolve(schema, root)
    parts = list(schema.get("properties", {}).items())
    every = schema.get("additionalProperties")
    if isinstance(every, Mapping):
        parts.append((f"<{schema.get('x-name', 'name')}>", every))
    for key, raw in parts:
        part = _resolve(raw, root)
        name = f"{prefix}{key}"
        again = part.get("x-reruns", reruns)
        default = part.get("default")
        nested = ("properties" in part or isinstance(part.get("additionalProperties"), Mapping)) and not part.get(
            "x-partial"
        )
        if "default" in part and not (nested and default == {}):
            shown = str(default).lower() if isinstance(default, bool) else str(default)
        else:
            shown = (
                "" if nested or part.get("x-partial") else ("(required)" if key in schema.get("required", []) else "")
            )
        yield {
            "key": name,
            "meaning": " ".join(part.get("description", "").split()),
            "unit": part.get("x-unit", ""),
            "default": shown,
            "reruns": again,
        }
        if nested:
            yield from _describe(part, root, f"{name}.", again)
