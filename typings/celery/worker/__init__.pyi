from celery import Celery

class WorkController:
    app: Celery
