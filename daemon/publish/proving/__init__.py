"""The parts of a proof: what is asked, what may differ, and the products of the matrices themselves."""
