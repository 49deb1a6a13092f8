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


def body_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
