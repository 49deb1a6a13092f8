"""A lifetime of edits: methods beside each other on streams of facts, some of which change again."""
