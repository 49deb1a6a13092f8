"""How many facts a model has room for: streams in more and fewer key directions, and the law through them."""
