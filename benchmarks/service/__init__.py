"""What needs a running service: publishing, intake, value workers."""
