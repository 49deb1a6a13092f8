"""The route of the product check: what the served matrices make of a seeded challenge."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

PRODUCTS_ROUTE = "/plugins/factd/products"
#: More edited matrices than any model has layers.
MOST_TENSORS = 512


class ProductsBody(BaseModel):
    """Body of `products`. Tensors are names of the model's own weights; nothing is opened by them."""

    model_config = ConfigDict(extra="forbid", strict=True)
    version: str = Field(pattern=r"^v\d{6}$")
    seed: int = Field(ge=0, lt=1 << 63)
    tensors: list[Annotated[str, Field(pattern=r"^[\w.]{1,200}$")]] = Field(max_length=MOST_TENSORS)


class Workers(Protocol):
    """Asks all workers while no publication is under way; raises the first refusal."""

    async def ask_alone(self, method: str, *args: object) -> list[Any]: ...


def add_product_route(app: FastAPI, guarded: Sequence[Any], answer: Callable[..., Any]) -> None:
    """Registers the route.

    Args:
        guarded: what a request must pass: the admin token.
        answer: turns what a call of the workers gives, or its refusal, into the answer.
    """

    @app.post(PRODUCTS_ROUTE, dependencies=[*guarded])
    async def products(body: ProductsBody, request: Request) -> Any:
        return await answer(_products(request.app.state.factd, body))


async def _products(workers: Workers, body: ProductsBody) -> dict[str, Any]:
    ranks = await workers.ask_alone("factd_products", body.version, body.seed, body.tensors)
    return {"version": body.version, "dtype": ranks[0]["dtype"], "ranks": [rank["tensors"] for rank in ranks]}
