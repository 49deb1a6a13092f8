"""What stands before the ledger: Celery's queue, the Redis Stream, room and rates. No torch."""
