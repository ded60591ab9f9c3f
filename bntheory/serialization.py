"""Descriptions as JSON text and back; what comes from outside is checked field by field, and nothing is executed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.initializations import Initialization
from bntheory.networks import LAYERS, Sequential


def from_json(text: str) -> Sequential:
    """Rebuild a description from `Sequential.to_json`.

    Parameters
    ----------
    text : str

    Returns
    -------
    Sequential

    Raises
    ------
    ValueError
        If the text is not JSON, or names an unknown layer, field or value; the offender and its row are named.

    Examples
    --------
    >>> from bntheory import mlp
    >>> from_json(mlp(2, 8).to_json()) == mlp(2, 8)
    True
    """
    if not isinstance(text, str):
        raise ValueError(f"a network description must be JSON text, got {type(text).__name__}")
    try:
        net = _from_data(json.loads(text))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not a network description: invalid JSON at {place}") from None
    except RecursionError:
        raise ValueError("not a network description: nested too deeply") from None
    if not isinstance(net, Sequential):
        raise ValueError(f"a network description must be a Sequential, got {type(net).__name__}")
    return net


def to_data(value: Any) -> Any:
    """Turn a description into plain dicts and lists, each dict with its "type"."""
    if isinstance(value, (Activation, Initialization)):
        return {"type": type(value).__name__, **value.to_dict()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    return [to_data(item) for item in value] if isinstance(value, tuple) else value


def _from_data(data: Any, row: str = "") -> Any:
    if isinstance(data, list):
        return tuple(_from_data(item, f"{row}.{index}".lstrip(".")) for index, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    names = {part: f"{row}.{part}" for part in ("branch", "shortcut", "branches")}
    fields = {key: _from_data(value, names.get(key, row)) for key, value in data.items() if key != "type"}
    try:
        return _made(data.get("type"), fields)
    except ValueError as error:
        raise ValueError(f"layer {row}: {error}" if row else str(error)) from None


def _made(word: object, fields: dict[str, Any]) -> Any:
    kinds = {**LAYERS, "Activation": Activation, "Initialization": Initialization}
    kind = kinds[arguments.choice("type", word, kinds)]
    for key in fields:
        arguments.choice(f"a field of {kind.__name__}", key, [field.name for field in dataclasses.fields(kind)])
    try:
        return kind.from_dict(fields) if kind in (Activation, Initialization) else kind(**fields)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None
