"""Bodies of requests as the OpenAPI schema shows them."""

from typing import Any

from daemon.core.messages import Correction
from daemon.http.alerts import Webhook


def corrections_schema() -> dict[str, Any]:
    """For the schema alone. `body_of` reads the body, so that an error names field, value and mend."""
    one = Correction.model_json_schema()
    one["properties"]["neighbours"]["items"] = one.pop("$defs")["Neighbour"]
    many = {"type": "array", "minItems": 1, "items": one}
    return body_schema({"anyOf": [one, many]})


def alerts_schema() -> dict[str, Any]:
    webhook = Webhook.model_json_schema()
    webhook["properties"]["alerts"]["items"] = webhook.pop("$defs")["Alert"]
    return body_schema(webhook)


def events_schema() -> dict[str, Any]:
    """The three ways in which HTTP carries CloudEvents; the data of each is a correction."""
    text = {"type": "string", "minLength": 1}
    required = ["specversion", "id", "source", "type"]
    properties: dict[str, Any] = {name: text for name in (*required, "subject", "time")}
    one = {
        "type": "object",
        "required": [*required, "data"],
        "properties": properties | {"data": {"type": "object"}},
    }
    content = {
        "application/cloudevents+json": {"schema": one},
        "application/cloudevents-batch+json": {"schema": {"type": "array", "minItems": 1, "items": one}},
        "application/json": {"schema": {"type": "object"}},
    }
    return {"requestBody": {"required": True, "content": content}}


def body_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
