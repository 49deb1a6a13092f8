"""Feeds: files and streams of corrections in other people's forms, read into ours. No torch."""
