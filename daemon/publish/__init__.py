"""Makes replicas serve a version and proves that they do."""
