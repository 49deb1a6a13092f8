"""What runs inside vLLM. No SQLAlchemy, no Celery."""
