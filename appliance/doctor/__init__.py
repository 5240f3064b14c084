"""Is this mirror port, or this capture, good enough to record from? What is wrong with it, and what to do about it."""
