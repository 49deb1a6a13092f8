"""Alembic scripts, one a change of the ledger's tables, run in order by `daemon.ledger.migration`.

A script that was released is never changed. It holds its tables literally: `daemon.ledger.tables` moves on.
"""
