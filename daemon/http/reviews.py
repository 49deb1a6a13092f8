"""Routes of reviews: what is held and why, and the decision about it."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from daemon.core.text import PLAIN
from daemon.http.service import SUBMIT, Id, ServiceOf, may_review
from daemon.http.views import review_view

router = APIRouter()
#: A decision without a reason helps nobody who reads the chain later.
Reason = Annotated[str, Query(min_length=1, max_length=1000, pattern=PLAIN)]
Reviewer = Annotated[str, Depends(may_review)]


@router.get("/v1/reviews", dependencies=SUBMIT)
def list_reviews(
    service: ServiceOf, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> list[dict[str, Any]]:
    """Corrections that are held for review, the most suspicious first, with score and reasons."""
    rows = service.ledger.reviews.held(limit)
    posters = service.ledger.reviews.posters([row.id for row in rows])
    return [review_view(row, posters.get(row.id)) for row in rows]


@router.post("/v1/reviews/{id:any}/approve")
def approve(service: ServiceOf, reviewer: Reviewer, id: Id, why: Reason) -> dict[str, Any]:
    """Lets a held correction wait for its batch. Whoever posted it may not do this."""
    row = service.ledger.reviews.approve(id, reviewer=f"http:{reviewer}", why=why)
    service.ring()
    return review_view(row, service.ledger.reviews.poster(row.id))


@router.post("/v1/reviews/{id:any}/reject")
def reject(service: ServiceOf, reviewer: Reviewer, id: Id, why: Reason) -> dict[str, Any]:
    """Ends a held correction as rejected, with the reason."""
    row = service.ledger.reviews.reject(id, reviewer=f"http:{reviewer}", why=why)
    return review_view(row, service.ledger.reviews.poster(row.id))
