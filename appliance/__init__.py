"""The recorder as a service: its processes, and what they say of themselves."""
