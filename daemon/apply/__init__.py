"""The single writer: one batch after another, from the ledger to the replicas."""
