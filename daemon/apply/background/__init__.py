"""Work that is prepared beside the single writer, in a process of its own."""
